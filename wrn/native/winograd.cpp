// Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2015, arXiv 1509.09308), fp32: a 3x3 convolution of stride 1, padded
// by 1, as 36 matrix products, a quarter of the multiplications. Tensors are (N, H, W, C) in memory, C a multiple of 8. A tile is
// 4 x 4 places of the output, the last ones of a map fewer; what is made of tiles is (36, tiles, C), each of the 36 `step`
// numbers after the one before.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "vectors.h"

// One pass of the input's transform, B': from six to six values at strides of their own.
static inline void input_pass(const v8* d, int from, v8* t, int to) {
    const v8 d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    const v8 even = d4 - 4.0f * d2, odd = d3 - 4.0f * d1, even2 = d4 - d2, odd2 = 2.0f * (d3 - d1);
    t[0] = 4.0f * d[0] - 5.0f * d2 + d4;
    t[to] = even + odd;
    t[2 * to] = even - odd;
    t[3 * to] = even2 + odd2;
    t[4 * to] = even2 - odd2;
    t[5 * to] = 4.0f * d1 - 5.0f * d3 + d[5 * from];
}

// A': from six to four.
static inline void output_pass(const v8* m, int from, v8* y, int to) {
    const v8 s1 = m[from] + m[2 * from], d1 = m[from] - m[2 * from];
    const v8 s2 = m[3 * from] + m[4 * from], d2 = m[3 * from] - m[4 * from];
    y[0] = m[0] + s1 + s2;
    y[to] = d1 + 2.0f * d2;
    y[2 * to] = s1 + 4.0f * s2;
    y[3 * to] = d1 + 8.0f * d2 + m[5 * from];
}

// A: from four to six, for the gradient of the weight.
static inline void gradient_pass(const v8* y, int from, v8* m, int to) {
    const v8 y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    const v8 even = y0 + y2, odd = y1 + y3, even2 = y0 + 4.0f * y2, odd2 = 2.0f * y1 + 8.0f * y3;
    m[0] = y0;
    m[to] = even + odd;
    m[2 * to] = even - odd;
    m[3 * to] = even2 + odd2;
    m[4 * to] = even2 - odd2;
    m[5 * to] = y3;
}

// G: from three to six.
static inline void weight_pass(const v8* w, int from, v8* u, int to) {
    const v8 w0 = w[0], w1 = w[from], w2 = w[2 * from];
    const v8 even = (w0 + w2) * (-1 / 6.0f), odd = w1 * (-1 / 6.0f);
    const v8 even2 = w0 * (1 / 24.0f) + w2 * (1 / 6.0f), odd2 = w1 * (1 / 12.0f);
    u[0] = w0 * 0.25f;
    u[to] = even + odd;
    u[2 * to] = even - odd;
    u[3 * to] = even2 + odd2;
    u[4 * to] = even2 - odd2;
    u[5 * to] = w2;
}

// G': from six to three, for the gradient of the weight.
static inline void weight_gradient_pass(const v8* u, int from, v8* w, int to) {
    const v8 s1 = u[from] + u[2 * from], d1 = u[2 * from] - u[from];
    const v8 s2 = u[3 * from] + u[4 * from], d2 = u[3 * from] - u[4 * from];
    w[0] = u[0] * 0.25f - s1 * (1 / 6.0f) + s2 * (1 / 24.0f);
    w[to] = d1 * (1 / 6.0f) + d2 * (1 / 12.0f);
    w[2 * to] = (s2 - s1) * (1 / 6.0f) + u[5 * from];
}

constexpr int64_t COLUMNS = 64;  // outputs that are made of them at a time
constexpr int64_t LEAST_TILES = 16;  // fewer do not make up for reading the weight, four times as large
constexpr int64_t SMALL = 1 << 16;  // numbers of a weight that a core's second cache holds beside all else

// Of a weight (out, 3, 3, in): 36 times (panels, in, 16), panels of 16 outputs, zeros beyond the last. `turned`, for the gradient
// of the input: the weight turned by half a turn, outputs and inputs exchanged.
extern "C" void winograd_weight(const float* w, float* made, int64_t step, int64_t out, int64_t channels, int64_t turned) {
    const int64_t from = turned ? out : channels, to = turned ? channels : out, panels = (to + WIDE - 1) / WIDE;
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t c = 0; c < from; c++)
            for (int64_t half = 0; half < WIDE; half += 8) {
                const int64_t first = panel * WIDE + half;
                v8 d[9] = {}, t[18], u[36];
                if (first < to)
                    for (int64_t k = 0; k < 9; k++)
                        if (turned)
                            d[k] = load(w + (9 * c + 8 - k) * channels + first);
                        else
                            for (int i = 0; i < 8; i++) d[k][i] = w[(9 * (first + i) + k) * channels + c];
                for (int j = 0; j < 3; j++) weight_pass(d + j, 3, t + j, 3);
                for (int i = 0; i < 6; i++) weight_pass(t + 3 * i, 1, u + 6 * i, 1);
                for (int64_t k = 0; k < 36; k++) store(made + k * step + (panel * from + c) * WIDE + half, u[k]);
            }
}

// A map of tiles, and where they are in it.
struct Map {
    int64_t images, height, width, channels;

    int64_t rows() const { return (height + 3) / 4; }
    int64_t columns() const { return (width + 3) / 4; }
    int64_t tiles() const { return images * rows() * columns(); }
    int64_t image(int64_t tile) const { return tile / (rows() * columns()); }
    int64_t top(int64_t tile) const { return tile / columns() % rows() * 4; }
    int64_t left(int64_t tile) const { return tile % columns() * 4; }
    int64_t at(int64_t image, int64_t row, int64_t column) const {
        return ((image * height + row) * width + column) * channels;
    }
};

// Whether this is less work than nine products for each place: of enough tiles, at least half of whose places are in the map.
extern "C" int64_t winograd_pays(int64_t images, int64_t height, int64_t width) {
    const int64_t tiles = Map{images, height, width, 0}.tiles();
    return tiles >= LEAST_TILES && 8 * tiles <= images * height * width;
}

// Of the input: the 6 x 6 places of a tile, which overlap with the next one's; `outside` is zeros, for those beyond the map.
// Eight channels from c on go to `to(c)`, each of the 36 transforms `step` numbers after the one before.
template <typename To>
static inline void input_tile(const Map& map, const float* x, const float* outside, int64_t tile, To to, int64_t step) {
    const int64_t image = map.image(tile), top = map.top(tile) - 1, left = map.left(tile) - 1;
    const float* from[36];
    for (int64_t i = 0; i < 6; i++)
        for (int64_t j = 0; j < 6; j++) {
            const int64_t row = top + i, column = left + j;
            const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width;
            from[6 * i + j] = inside ? x + map.at(image, row, column) : outside;
        }
    for (int64_t c = 0; c < map.channels; c += 8) {
        v8 d[36], t[36];
        for (int k = 0; k < 36; k++) d[k] = load(from[k] + c);
        for (int j = 0; j < 6; j++) input_pass(d + j, 6, t + j, 6);
        for (int i = 0; i < 6; i++) input_pass(t + 6 * i, 1, d + 6 * i, 1);
        float* place = to(c);
        for (int64_t k = 0; k < 36; k++) store(place + k * step, d[k]);
    }
}

// Of the products of a tile, for the channels from `first` up to `last`: to the output, plus bias (C) and shortcut (N, H, W, C)
// if not null, then ReLU if it is wanted. What lies beyond the map goes to `nowhere`, room for C numbers.
static inline void output_tile(
    const Map& map, const float* made, int64_t step, int64_t tile, int64_t first, int64_t last, const float* bias,
    const float* shortcut, bool relu, float* nowhere, float* y) {
    const int64_t image = map.image(tile), top = map.top(tile), left = map.left(tile);
    float* to[16];
    const float* plus[16];
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < 4; j++) {
            const bool inside = top + i < map.height && left + j < map.width;
            const int64_t at = map.at(image, top + i, left + j);
            to[4 * i + j] = inside ? y + at : nowhere;
            plus[4 * i + j] = inside && shortcut ? shortcut + at : nowhere;
        }
    for (int64_t c = first; c < last; c += 8) {
        v8 m[36], t[24], out[16];
        for (int64_t k = 0; k < 36; k++) m[k] = load(made + k * step + c - first);
        for (int j = 0; j < 6; j++) output_pass(m + j, 6, t + j, 6);
        for (int i = 0; i < 4; i++) output_pass(t + 6 * i, 1, out + 4 * i, 1);
        const v8 added = bias ? load(bias + c) : v8{};
        for (int place = 0; place < 16; place++) {
            v8 v = out[place] + added;
            if (shortcut) v += load(plus[place] + c);
            if (relu) v = v < 0.0f ? v8{} : v;  // a NaN stays one
            store(to[place] + c, v);
        }
    }
}

// Sums over `depth` channels: ROWS tiles `across` numbers apart, with a panel of the weight, to rows of COLUMNS.
static inline void product(const float* tiles, int64_t across, const float* panel, int64_t depth, float* sums) {
    const float* rows[ROWS];
    for (int64_t row = 0; row < ROWS; row++) rows[row] = tiles + row * across;
    v8 sum[ROWS][2] = {};
    add_products(rows, panel, depth, sum);
#pragma GCC unroll 6
    for (int64_t row = 0; row < ROWS; row++) {
        store(sums + row * COLUMNS, sum[row][0]);
        store(sums + row * COLUMNS + 8, sum[row][1]);
    }
}

// Numbers from a multiple of 64 bytes on that are the thread's until it asks again.
static float* scratch(int64_t count) {
    static thread_local std::vector<float> kept;
    if (static_cast<int64_t>(kept.size()) < count + 16) kept.resize(count + 16);
    return kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) % 64 / 4;
}

// Of x (N, H, W, in) and a weight that winograd_weight made: y (N, H, W, out), with what output_tile adds.
extern "C" void winograd_convolve(
    const float* x, const float* weight, int64_t weight_step, float* y, int64_t images, int64_t height, int64_t width,
    int64_t channels, int64_t out, const float* bias, const float* shortcut, int64_t relu) {
    const Map input{images, height, width, channels}, output{images, height, width, out};
    const int64_t tiles = input.tiles(), panels = (out + WIDE - 1) / WIDE, threads = omp_get_max_threads();
    // Tiles whose transforms a core's second cache holds; twice as many where the weight fits into no cache
    const int64_t most = channels < 512 ? 24 : 48;
    int64_t blocks = (tiles + most - 1) / most, parts = 1;
    if (blocks < 4 * threads) {  // few: each thread gets as many, or its part of the outputs, whose weight it reads alone
        if (36 * channels * out <= SMALL) blocks = (blocks + threads - 1) / threads * threads;
        else parts = std::min(panels, threads);
    }
    const int64_t at_a_time = (tiles + blocks - 1) / blocks;
    blocks = (tiles + at_a_time - 1) / at_a_time;
    const int64_t rows = (at_a_time + ROWS - 1) / ROWS * ROWS;  // those beyond the last tile are of nobody
    const int64_t step = rows * channels + 16, sums_step = rows * COLUMNS + 16;  // no two at one place of a cache
    const std::vector<float> outside(channels);
#pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < parts * blocks; task++) {
        const int64_t part = task / blocks, start = task % blocks * at_a_time;
        const int64_t count = std::min(at_a_time, tiles - start);
        float *made = scratch(36 * (step + sums_step) + panels * WIDE), *sums = made + 36 * step;
        float* nowhere = sums + 36 * sums_step;
        for (int64_t i = 0; i < count; i++)
            input_tile(input, x, outside.data(), start + i, [=](int64_t c) { return made + i * channels + c; }, step);
        const int64_t end = panels * (part + 1) / parts;
        for (int64_t first = panels * part / parts; first < end; first += COLUMNS / WIDE) {
            const int64_t last = std::min(first + COLUMNS / WIDE, end);
            for (int64_t k = 0; k < 36; k++)
                for (int64_t panel = first; panel < last; panel++)
                    for (int64_t i = 0; i < count; i += ROWS)
                        product(
                            made + k * step + i * channels, channels, weight + k * weight_step + panel * channels * WIDE, channels,
                            sums + k * sums_step + i * COLUMNS + (panel - first) * WIDE);
            for (int64_t i = 0; i < count; i++)
                output_tile(
                    output, sums + i * COLUMNS, sums_step, start + i, first * WIDE, std::min(last * WIDE, out), bias, shortcut,
                    relu, nowhere, y);
        }
    }
}

// Of the gradient of the output, as input_tile.
template <typename To>
static inline void gradient_tile(
    const Map& map, const float* dy, const float* outside, int64_t tile, To to, int64_t step) {
    const int64_t image = map.image(tile), top = map.top(tile), left = map.left(tile);
    const float* from[16];
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < 4; j++) {
            const bool inside = top + i < map.height && left + j < map.width;
            from[4 * i + j] = inside ? dy + map.at(image, top + i, left + j) : outside;
        }
    for (int64_t c = 0; c < map.channels; c += 8) {
        v8 y[16], t[24], m[36];
        for (int k = 0; k < 16; k++) y[k] = load(from[k] + c);
        for (int j = 0; j < 4; j++) gradient_pass(y + j, 4, t + j, 4);
        for (int i = 0; i < 6; i++) gradient_pass(t + 4 * i, 1, m + 6 * i, 1);
        float* place = to(c);
        for (int64_t k = 0; k < 36; k++) store(place + k * step, m[k]);
    }
}

// Adds sums over `count` tiles to 4 rows, `across` numbers apart, of 16: of outputs, 8 of each tile, and inputs, 16 of each.
static inline void add_outer_products(const float* outputs, const float* inputs, int64_t count, float* sums, int64_t across) {
    v8 sum[4][2] = {};
    for (int64_t tile = 0; tile < count; tile++) {
        const v8 low = load(inputs + tile * WIDE), high = load(inputs + tile * WIDE + 8);
#pragma GCC unroll 4
        for (int64_t row = 0; row < 4; row++) {
            const float value = outputs[tile * 8 + row];
            sum[row][0] += value * low;
            sum[row][1] += value * high;
        }
    }
    for (int64_t row = 0; row < 4; row++)
        for (int64_t half = 0; half < 2; half++) {
            float* place = sums + row * across + 8 * half;
            store(place, load(place) + sum[row][half]);
        }
}

// The gradient of the weight, (out, 3, 3, in), from x (N, H, W, in) and dy (N, H, W, out), `at_a_time` tiles at a time. For
// transforms there is room in `made`, 36 times `step`: inputs in panels of 16, then outputs in panels of 8, tile after tile
// in each. `sums` are zeros, (36, out, in), `in` a multiple of 16.
extern "C" void winograd_weight_gradient(
    const float* x, const float* dy, float* dw, float* made, int64_t step, float* sums, int64_t at_a_time, int64_t images,
    int64_t height, int64_t width, int64_t channels, int64_t out) {
    const Map input{images, height, width, channels}, output{images, height, width, out};
    const int64_t panels = (channels + WIDE - 1) / WIDE, across = panels * WIDE;
    const std::vector<float> outside(std::max(channels, out));
    float* outputs = made + at_a_time * across;
#pragma omp parallel
    {
        for (int64_t start = 0; start < input.tiles(); start += at_a_time) {
            const int64_t count = std::min(at_a_time, input.tiles() - start);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count; i++) {
                const auto to = [=](int64_t c) { return made + (c / WIDE * at_a_time + i) * WIDE + c % WIDE; };
                input_tile(input, x, outside.data(), start + i, to, step);
                gradient_tile(
                    output, dy, outside.data(), start + i, [=](int64_t c) { return outputs + c * at_a_time + i * 8; }, step);
            }
#pragma omp for schedule(static)
            for (int64_t task = 0; task < 36 * panels; task++) {
                const int64_t k = task / panels, panel = task % panels;
                for (int64_t o = 0; o < out; o += 4)
                    add_outer_products(
                        outputs + k * step + o / 8 * 8 * at_a_time + o % 8, made + k * step + panel * at_a_time * WIDE, count,
                        sums + (k * out + o) * across + panel * WIDE, across);
            }
        }
#pragma omp for schedule(static)
        for (int64_t o = 0; o < out; o++)
            for (int64_t c = 0; c < channels; c += 8) {
                v8 u[36], t[18], d[9];
                for (int64_t k = 0; k < 36; k++) u[k] = load(sums + (k * out + o) * across + c);
                for (int j = 0; j < 6; j++) weight_gradient_pass(u + j, 6, t + j, 6);
                for (int i = 0; i < 3; i++) weight_gradient_pass(t + 6 * i, 1, d + 3 * i, 1);
                for (int64_t k = 0; k < 9; k++) store(dw + (9 * o + k) * channels + c, d[k]);
            }
    }
}
