// The gradient of a convolution's weight, of bf16 on AMX. Tensors are in channels_last layout, that is (N, H, W, C) in
// memory, C a multiple of 16; weight gradients are fp32, and fixed for a number of threads.

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

typedef uint16_t bf16;

// A tile of AMX holds 16 rows of 32 bf16. Here 32 images at one place of the map are multiplied at once, so that any
// shift by the kernel or stride is another tile and nothing is padded: dw[co, tap, ci] = sum over places and images of
// dy[n, place, co] * x[n, place shifted by tap, ci]. Packed are
//   dy: for 16 channels at a place (16 channels, 32 images)
//   x:  for 16 channels at a place (16 pairs of images, 16 channels, 2)
static const int64_t TILE = 512;  // bf16 in a tile

struct __attribute__((packed)) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {0};
    uint16_t bytes[16] = {0};
    uint8_t rows[16] = {0};
};

static void configure_tiles() {
    TileConfig config;
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = 16;
    }
    _tile_loadconfig(&config);
}

// Ask the kernel of the system for AMX; 0 if it may be used.
extern "C" int request_amx() {
    const int arch_req_xcomp_perm = 0x1023, xtiledata = 18;
    return (int)syscall(SYS_arch_prctl, arch_req_xcomp_perm, xtiledata);
}

// Interleave images 2j and 2j + 1 of one place, 16 channels: 16 rows of 32 bf16.
static inline void interleaved(const bf16* from, int64_t image_stride, int64_t images, __m512i* rows) {
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0);
    const __m256i none = _mm256_setzero_si256();
    for (int64_t j = 0; j < 16; j++) {
        const bf16* pair = from + 2 * j * image_stride;
        __m256i even = 2 * j < images ? _mm256_loadu_si256((const __m256i*)pair) : none;
        __m256i odd = 2 * j + 1 < images ? _mm256_loadu_si256((const __m256i*)(pair + image_stride)) : none;
        rows[j] = _mm512_permutexvar_epi16(order, _mm512_inserti64x4(_mm512_castsi256_si512(even), odd, 1));
    }
}

// 16 x 16 numbers of 32 bits, in place.
static inline void transpose(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        int k = i & 3, from = i < 4 ? k : k + 4;
        r[i] = _mm512_shuffle_i32x4(t[from], t[from + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[from], t[from + 8], 0xdd);
    }
}

// Of a 3 x 3 convolution: weight gradients of 16 output by 16 * B input channels at the three taps of one row of the
// kernel, over some rows of dy. A tile of x that one tap has brought near is what the next needs at the next place.
// Tiles, whose numbers must be literals: 0 to 2 and 3 to 5, the sums of either 16 input channels; 6 of dy; 7 of x.
template <int B>
static void multiply_row(
    const bf16* dy, const bf16* x, int64_t x_block, int64_t rows, int64_t columns, int64_t x_row, int64_t width,
    int64_t stride, float* dw, int64_t tap_stride, int64_t dw_stride, bool first) {
#define EACH(op) op(0, 0, 0) op(1, 1, 0) op(2, 2, 0) if (B > 1) { op(3, 0, 1) op(4, 1, 1) op(5, 2, 1) }
#define CLEAR(t, tap, i) _tile_zero(t);
#define BEGIN(t, tap, i) _tile_loadd(t, dw + tap * tap_stride + i * 16, dw_stride * 4);
#define END(t, tap, i) _tile_stored(t, dw + tap * tap_stride + i * 16, dw_stride * 4);
#define MULTIPLY(t, u, tap)                                                \
    {                                                                      \
        int64_t column = c * stride + tap - 1;                             \
        if (column >= 0 && column < width) {                               \
            _tile_loadd(7, x_line + column * TILE, 64);                    \
            _tile_dpbf16ps(t, 6, 7);                                       \
            if (B > 1) {                                                   \
                _tile_loadd(7, x_line + x_block + column * TILE, 64);      \
                _tile_dpbf16ps(u, 6, 7);                                   \
            }                                                              \
        }                                                                  \
    }
    if (first) {
        EACH(CLEAR)
    } else {
        EACH(BEGIN)
    }
    for (int64_t r = 0; r < rows; r++) {
        const bf16* x_line = x + r * x_row;
        for (int64_t c = 0; c < columns; c++) {
            _tile_loadd(6, dy + (r * columns + c) * TILE, 64);
            MULTIPLY(0, 3, 0)
            MULTIPLY(1, 4, 1)
            MULTIPLY(2, 5, 2)
        }
    }
    EACH(END)
#undef MULTIPLY
}

// The same of a 1 x 1 convolution.
template <int B>
static void multiply_point(
    const bf16* dy, const bf16* x, int64_t x_block, int64_t rows, int64_t columns, int64_t x_row, int64_t stride,
    float* dw, int64_t dw_stride, bool first) {
    const int64_t tap_stride = 0;
    if (first) {
        CLEAR(0, 0, 0)
        CLEAR(3, 0, 1)
    } else {
        BEGIN(0, 0, 0)
        if (B > 1) { BEGIN(3, 0, 1) }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            _tile_loadd(6, dy + (r * columns + c) * TILE, 64);
            _tile_loadd(7, x + r * x_row + c * stride * TILE, 64);
            _tile_dpbf16ps(0, 6, 7);
            if (B > 1) {
                _tile_loadd(7, x + x_block + r * x_row + c * stride * TILE, 64);
                _tile_dpbf16ps(3, 6, 7);
            }
        }
    END(0, 0, 0)
    if (B > 1) { END(3, 0, 1) }
}

// How the work is divided: output channels over `parts` of the threads, chunks of some rows of 32 images over the rest,
// who sum into weight gradients of their own, added up at the end.
struct Plan {
    int64_t images, height, width, in, out, kernel, stride, out_height, out_width;
    int64_t rows, in_rows, chunks;  // rows of dy and of x in a chunk
    int64_t parts, sharers, outs;   // outs: the most 16s of output channels that one thread has

    Plan(
        int64_t images, int64_t height, int64_t width, int64_t in, int64_t out, int64_t kernel, int64_t stride,
        int64_t threads)
        : images(images), height(height), width(width), in(in), out(out), kernel(kernel), stride(stride) {
        out_height = (height + 2 * (kernel / 2) - kernel) / stride + 1;
        out_width = (width + 2 * (kernel / 2) - kernel) / stride + 1;
        rows = std::min(out_height, std::max<int64_t>(1, 256 / out_width));  // for the second cache
        in_rows = (rows - 1) * stride + kernel;
        chunks = (images + 31) / 32 * chunks_per_image();
        bool large = kernel * kernel * in * out > 1 << 18;  // so that every thread's own would take long to add up
        sharers = large ? 1 : std::min(threads, chunks);
        parts = std::min(threads / sharers, out / 16);
        outs = (out / 16 + parts - 1) / parts;
    }
    int64_t chunks_per_image() const { return (out_height + rows - 1) / rows; }
    int64_t packed_dy() const { return TILE * outs * rows * out_width; }
    int64_t packed_x() const { return TILE * (in / 16) * in_rows * width; }
    int64_t size() const { return kernel * kernel * in * out; }
    // In bf16, aligned to 64 bytes
    int64_t scratch() const { return sharers * parts * (packed_dy() + packed_x()) + (sharers - 1) * 2 * size(); }
};

extern "C" int64_t weight_gradient_scratch(
    int64_t images, int64_t height, int64_t width, int64_t in, int64_t out, int64_t kernel, int64_t stride,
    int64_t threads) {
    return Plan(images, height, width, in, out, kernel, stride, threads).scratch();
}

// One thread's share: output channels from `begin` to `end` (in 16s), every so many chunks from `sharer` on, into `dw`.
static void share_of(
    const Plan& p, const bf16* x, const bf16* dy, float* dw, bf16* packed_dy, bf16* packed_x, int64_t sharer,
    int64_t begin, int64_t end) {
    const int64_t ins = p.in / 16, taps = p.kernel * p.kernel, pad = p.kernel / 2, per_image = p.chunks_per_image();
    const int64_t dy_block = TILE * p.rows * p.out_width, x_block = TILE * p.in_rows * p.width;
    for (int64_t chunk = sharer; chunk < p.chunks; chunk += p.sharers) {
        const int64_t n = chunk / per_image * 32, top = chunk % per_image * p.rows, in_top = top * p.stride - pad;
        const int64_t count = std::min<int64_t>(32, p.images - n), rows = std::min(p.rows, p.out_height - top);
        for (int64_t place = 0; place < rows * p.out_width; place++) {
            const bf16* from = dy + ((n * p.out_height + top) * p.out_width + place) * p.out;
            for (int64_t c = begin; c < end; c++) {
                __m512i* tile = (__m512i*)(packed_dy + (c - begin) * dy_block + place * TILE);
                interleaved(from + 16 * c, p.out_height * p.out_width * p.out, count, tile);
                transpose(tile);
            }
        }
        for (int64_t place = 0; place < ((rows - 1) * p.stride + p.kernel) * p.width; place++) {
            const int64_t row = in_top + place / p.width;
            if (row < 0 || row >= p.height) continue;
            const bf16* from = x + ((n * p.height + row) * p.width + place % p.width) * p.in;
            for (int64_t c = 0; c < ins; c++) {
                __m512i* tile = (__m512i*)(packed_x + c * x_block + place * TILE);
                interleaved(from + 16 * c, p.height * p.width * p.in, count, tile);
            }
        }
        const bool first = chunk == sharer;
        for (int64_t b = 0; b < ins; b += 2)
            for (int64_t a = begin; a < end; a++)
                for (int64_t ky = 0; ky < p.kernel; ky++) {
                    int64_t low = 0, high = rows;  // the rows of dy whose row of x at this tap lies inside
                    while (low < rows && in_top + low * p.stride + ky < 0) low++;
                    while (high > low && in_top + (high - 1) * p.stride + ky >= p.height) high--;
                    const bf16* from_dy = packed_dy + (a - begin) * dy_block + low * p.out_width * TILE;
                    const bf16* from_x = packed_x + b * x_block + (low * p.stride + ky) * p.width * TILE;
                    float* to = dw + (16 * a * taps + ky * p.kernel) * p.in + 16 * b;
                    const int64_t x_row = p.stride * p.width * TILE;
                    if (p.kernel == 3)
                        (b + 1 < ins ? multiply_row<2> : multiply_row<1>)(
                            from_dy, from_x, x_block, high - low, p.out_width, x_row, p.width, p.stride, to, p.in,
                            taps * p.in, first);
                    else
                        (b + 1 < ins ? multiply_point<2> : multiply_point<1>)(
                            from_dy, from_x, x_block, high - low, p.out_width, x_row, p.stride, to, taps * p.in, first);
                }
    }
}

// dw (channels out, k, k, channels in) of a convolution of k x k, 1 or 3, padded by k / 2. The same bits for the same
// `threads`, whether or not the system gives that many.
extern "C" void weight_gradient(
    const bf16* x, const bf16* dy, float* dw, bf16* scratch, int64_t images, int64_t height, int64_t width, int64_t in,
    int64_t out, int64_t kernel, int64_t stride, int64_t threads) {
    const Plan p(images, height, width, in, out, kernel, stride, threads);
    const int64_t shares = p.sharers * p.parts, packed = p.packed_dy() + p.packed_x();
    float* others = (float*)(scratch + shares * packed);
#pragma omp parallel num_threads(shares)
    {
        configure_tiles();
        for (int64_t share = omp_get_thread_num(); share < shares; share += omp_get_num_threads()) {
            const int64_t sharer = share % p.sharers, part = share / p.sharers;
            bf16* packed_dy = scratch + share * packed;
            share_of(
                p, x, dy, sharer == 0 ? dw : others + (sharer - 1) * p.size(), packed_dy, packed_dy + p.packed_dy(),
                sharer, out / 16 * part / p.parts, out / 16 * (part + 1) / p.parts);
        }
        _tile_release();
#pragma omp barrier
        for (int64_t s = 0; s + 1 < p.sharers; s++) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < p.size(); i++) dw[i] += others[s * p.size() + i];
        }
    }
}
