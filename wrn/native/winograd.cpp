// Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2015, arXiv 1509.09308): a 3x3 convolution of stride 1, padded by 1, as
// 36 matrix products, a quarter of the multiplications. Tensors are (N, H, W, C) in memory, C a multiple of WIDTH. A tile is
// 4 x 4 places of the output, the last ones of a map fewer; what is made of tiles is (36, tiles, C), each of the 36 `step`
// numbers after the one before. Transforms and sums are computed in fp32; what is multiplied is rounded to `number`.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "vectors.h"

// The transforms evaluate polynomials at 0, infinity and four other places, plus and minus these two. Beside the usual 1 and 2 they
// halve the error in fp32 and bf16, as their powers lie nearer to 1. Their product is 1.
constexpr float NEAR = 2 / 3.0f, FAR = 3 / 2.0f;
constexpr float NEAR2 = NEAR * NEAR, FAR2 = FAR * FAR;

// One pass of the input's transform, B': from six to six values at strides of their own.
static inline void input_pass(const vec* d, int from, vec* t, int to) {
    const vec d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    const vec even = d4 - FAR2 * d2, odd = NEAR * d3 - FAR * d1;
    const vec even2 = d4 - NEAR2 * d2, odd2 = FAR * d3 - NEAR * d1;
    t[0] = d[0] - (NEAR2 + FAR2) * d2 + d4;
    t[to] = even + odd;
    t[2 * to] = even - odd;
    t[3 * to] = even2 + odd2;
    t[4 * to] = even2 - odd2;
    t[5 * to] = d1 - (NEAR2 + FAR2) * d3 + d[5 * from];
}

// A': from six to four.
static inline void output_pass(const vec* m, int from, vec* y, int to) {
    const vec s1 = m[from] + m[2 * from], d1 = NEAR * (m[from] - m[2 * from]);
    const vec s2 = m[3 * from] + m[4 * from], d2 = FAR * (m[3 * from] - m[4 * from]);
    y[0] = m[0] + s1 + s2;
    y[to] = d1 + d2;
    y[2 * to] = NEAR2 * s1 + FAR2 * s2;
    y[3 * to] = NEAR2 * d1 + FAR2 * d2 + m[5 * from];
}

// A: from four to six, for the gradient of the weight.
static inline void gradient_pass(const vec* y, int from, vec* m, int to) {
    const vec y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    const vec even = y0 + NEAR2 * y2, odd = NEAR * (y1 + NEAR2 * y3);
    const vec even2 = y0 + FAR2 * y2, odd2 = FAR * (y1 + FAR2 * y3);
    m[0] = y0;
    m[to] = even + odd;
    m[2 * to] = even - odd;
    m[3 * to] = even2 + odd2;
    m[4 * to] = even2 - odd2;
    m[5 * to] = y3;
}

// What each place's products are multiplied by: one over the product of its distances from the others.
constexpr float OF_NEAR = 1 / (2 * NEAR2 * (NEAR2 - FAR2)), OF_FAR = 1 / (2 * FAR2 * (FAR2 - NEAR2));

// G: from three to six.
static inline void weight_pass(const vec* w, int from, vec* u, int to) {
    const vec w0 = w[0], w1 = w[from], w2 = w[2 * from];
    const vec even = OF_NEAR * w0 + OF_NEAR * NEAR2 * w2, odd = OF_NEAR * NEAR * w1;
    const vec even2 = OF_FAR * w0 + OF_FAR * FAR2 * w2, odd2 = OF_FAR * FAR * w1;
    u[0] = w0;
    u[to] = even + odd;
    u[2 * to] = even - odd;
    u[3 * to] = even2 + odd2;
    u[4 * to] = even2 - odd2;
    u[5 * to] = w2;
}

// G': from six to three, for the gradient of the weight.
static inline void weight_gradient_pass(const vec* u, int from, vec* w, int to) {
    const vec s1 = OF_NEAR * (u[from] + u[2 * from]), d1 = OF_NEAR * (u[from] - u[2 * from]);
    const vec s2 = OF_FAR * (u[3 * from] + u[4 * from]), d2 = OF_FAR * (u[3 * from] - u[4 * from]);
    w[0] = u[0] + s1 + s2;
    w[to] = NEAR * d1 + FAR * d2;
    w[2 * to] = NEAR2 * s1 + FAR2 * s2 + u[5 * from];
}

// The 36 transforms of DEPTH rows, side by side, each `step` numbers after the one before.
static inline void store_all(const vec (&made)[DEPTH][36], number* place, int64_t step) {
    for (int64_t k = 0; k < 36; k++) store_side_by_side(place + k * step, made[0][k], made[DEPTH - 1][k]);
}

constexpr int64_t COLUMNS = 64;  // outputs that are made of them at a time
constexpr int64_t LEAST_TILES = 16;  // fewer do not make up for reading the weight, four times as large,
constexpr int64_t MANY_CHANNELS = 128;  // unless there are so many
constexpr int64_t SMALL = 1 << 16;  // numbers of a weight that a core's second cache holds beside all else

// Of a weight (out, 3, 3, in): 36 times (panels, in / DEPTH, WIDE, DEPTH), panels of WIDE outputs, zeros beyond the last.
// `turned`, for the gradient of the input: the weight turned by half a turn, outputs and inputs exchanged.
extern "C" void winograd_weight(
    const float* w, number* made, int64_t step, int64_t out, int64_t channels, int64_t turned) {
    const int64_t from = turned ? out : channels, to = turned ? channels : out, panels = (to + WIDE - 1) / WIDE;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t c = 0; c < from; c += DEPTH)
            for (int64_t half = 0; half < WIDE; half += WIDTH) {
                const int64_t first = panel * WIDE + half;
                vec u[DEPTH][36];
                for (int64_t i = 0; i < DEPTH; i++) {
                    vec d[9] = {}, t[18];
                    for (int64_t k = 0; k < 9 && first < to; k++)
                        if (turned) d[k] = load(w + (9 * (c + i) + 8 - k) * channels + first);
                        else
                            for (int j = 0; j < WIDTH; j++) d[k][j] = w[(9 * (first + j) + k) * channels + c + i];
                    for (int j = 0; j < 3; j++) weight_pass(d + j, 3, t + j, 3);
                    for (int j = 0; j < 6; j++) weight_pass(t + 3 * j, 1, u[i] + 6 * j, 1);
                }
                store_all(u, made + (panel * from + c) * WIDE + half * DEPTH, step);
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
extern "C" int64_t winograd_pays(int64_t images, int64_t height, int64_t width, int64_t channels) {
    const int64_t tiles = Map{images, height, width, channels}.tiles();
    return tiles >= (channels < MANY_CHANNELS ? LEAST_TILES : FEW) && 8 * tiles <= images * height * width;
}

// Of the input: where the 6 x 6 places of a tile are, which overlap with the next one's; `outside` is zeros, for those beyond
// the map, and for a tile beyond the last.
struct InputTile {
    const number* from[36];

    void find(const Map& map, const number* x, const number* outside, int64_t tile) {
        const int64_t image = map.image(tile), top = map.top(tile) - 1, left = map.left(tile) - 1;
        for (int64_t i = 0; i < 6; i++)
            for (int64_t j = 0; j < 6; j++) {
                const int64_t row = top + i, column = left + j;
                const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width && image < map.images;
                from[6 * i + j] = inside ? x + map.at(image, row, column) : outside;
            }
    }

    // Of WIDTH channels from c on.
    void transform(int64_t c, vec* made) const {
        vec d[36], t[36];
        for (int k = 0; k < 36; k++) d[k] = load(from[k] + c);
        for (int j = 0; j < 6; j++) input_pass(d + j, 6, t + j, 6);
        for (int i = 0; i < 6; i++) input_pass(t + 6 * i, 1, made + 6 * i, 1);
    }
};

// Of the products of a tile, for the channels from `first` up to `last`: to the output, plus bias (C) and shortcut (N, H, W, C)
// if not null, then ReLU if it is wanted. What lies beyond the map goes to `nowhere`, room for C numbers.
static inline void output_tile(
    const Map& map, const float* made, int64_t step, int64_t tile, int64_t first, int64_t last, const float* bias,
    const number* shortcut, bool relu, number* nowhere, number* y) {
    const int64_t image = map.image(tile), top = map.top(tile), left = map.left(tile);
    number* to[16];
    const number* plus[16];
    for (int64_t i = 0; i < 4; i++)
        for (int64_t j = 0; j < 4; j++) {
            const bool inside = top + i < map.height && left + j < map.width;
            const int64_t at = map.at(image, top + i, left + j);
            to[4 * i + j] = inside ? y + at : nowhere;
            plus[4 * i + j] = inside && shortcut ? shortcut + at : nowhere;
        }
    for (int64_t c = first; c < last; c += WIDTH) {
        vec m[36], t[24], out[16];
        for (int64_t k = 0; k < 36; k++) m[k] = load(made + k * step + c - first);
        for (int j = 0; j < 6; j++) output_pass(m + j, 6, t + j, 6);
        for (int i = 0; i < 4; i++) output_pass(t + 6 * i, 1, out + 4 * i, 1);
        const vec added = bias ? load(bias + c) : vec{};
        for (int place = 0; place < 16; place++) {
            vec v = out[place] + added;
            if (shortcut) v += load(plus[place] + c);
            if (relu) v = v < 0.0f ? vec{} : v;  // a NaN stays one
            store(to[place] + c, v);
        }
    }
}

// Sums over `depth` channels: ROWS tiles `across` numbers apart, with a panel of the weight or half of it, to rows of COLUMNS.
template <int COUNT, int HALVES>
static inline void product(const number* tiles, int64_t across, const number* panel, int64_t depth, float* sums) {
    const number* rows[ROWS];
    for (int64_t row = 0; row < COUNT; row++) rows[row] = tiles + row * across;
    vec sum[ROWS][2] = {};
    add_products<COUNT, HALVES>(rows, panel, depth, sum);
#pragma GCC unroll 12
    for (int64_t row = 0; row < COUNT; row++)
        for (int half = 0; half < HALVES; half++) store(sums + row * COLUMNS + half * WIDTH, sum[row][half]);
}

// So many bytes, from a multiple of 64 on, that are the thread's until it asks again.
static void* scratch(int64_t bytes) {
    static thread_local std::vector<char> kept;
    if (static_cast<int64_t>(kept.size()) < bytes + 64) kept.resize(bytes + 64);
    return kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) % 64;
}

// Of x (N, H, W, in) and a weight that winograd_weight made: y (N, H, W, out), with what output_tile adds.
extern "C" void winograd_convolve(
    const number* x, const number* weight, int64_t weight_step, number* y, int64_t images, int64_t height, int64_t width,
    int64_t channels, int64_t out, const float* bias, const number* shortcut, int64_t relu) {
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
    const int64_t step = rows * channels + 64 / sizeof(number), sums_step = rows * COLUMNS + 16;  // no two at one place of a cache
    const std::vector<number> outside(channels);
#pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < parts * blocks; task++) {
        const int64_t part = task / blocks, start = task % blocks * at_a_time;
        const int64_t count = std::min(at_a_time, tiles - start);
        float* sums = static_cast<float*>(scratch(36 * sums_step * sizeof(float) + (36 * step + panels * WIDE) * sizeof(number)));
        number *made = reinterpret_cast<number*>(sums + 36 * sums_step), *nowhere = made + 36 * step;
        for (int64_t i = 0; i < count; i++) {
            InputTile tile;
            tile.find(input, x, outside.data(), start + i);
            for (int64_t c = 0; c < channels; c += WIDTH) {
                vec each[36];
                tile.transform(c, each);
                for (int64_t k = 0; k < 36; k++) store(made + k * step + i * channels + c, each[k]);
            }
        }
        const int64_t end = panels * (part + 1) / parts;
        for (int64_t first = panels * part / parts; first < end; first += COLUMNS / WIDE) {
            const int64_t last = std::min(first + COLUMNS / WIDE, end);
            for (int64_t k = 0; k < 36; k++)
                for (int64_t panel = first; panel < last; panel++)
                    for (int64_t i = 0; i < count; i += ROWS)
                        (out - panel * WIDE <= WIDTH ? product<ROWS, 1> : count - i <= FEW ? product<FEW, 2> : product<ROWS, 2>)(
                            made + k * step + i * channels, channels, weight + k * weight_step + panel * channels * WIDE, channels,
                            sums + k * sums_step + i * COLUMNS + (panel - first) * WIDE);
            for (int64_t i = 0; i < count; i++)
                output_tile(
                    output, sums + i * COLUMNS, sums_step, start + i, first * WIDE, std::min(last * WIDE, out), bias, shortcut,
                    relu, nowhere, y);
        }
    }
}

// Of the gradient of the output, as InputTile of the input.
struct GradientTile {
    const number* from[16];

    void find(const Map& map, const number* dy, const number* outside, int64_t tile) {
        const int64_t image = map.image(tile), top = map.top(tile), left = map.left(tile);
        for (int64_t i = 0; i < 4; i++)
            for (int64_t j = 0; j < 4; j++) {
                const bool inside = top + i < map.height && left + j < map.width && image < map.images;
                from[4 * i + j] = inside ? dy + map.at(image, top + i, left + j) : outside;
            }
    }

    void transform(int64_t c, vec* made) const {
        vec y[16], t[24];
        for (int k = 0; k < 16; k++) y[k] = load(from[k] + c);
        for (int j = 0; j < 4; j++) gradient_pass(y + j, 4, t + j, 4);
        for (int i = 0; i < 6; i++) gradient_pass(t + 4 * i, 1, made + 6 * i, 1);
    }
};

// Transforms of DEPTH tiles from `first` on, side by side: of WIDTH channels from c on to `to(c)`.
template <typename Tile, typename To>
static inline void transform_side_by_side(
    const Map& map, const number* x, const number* outside, int64_t first, To to, int64_t step) {
    Tile tiles[DEPTH];
    for (int64_t i = 0; i < DEPTH; i++) tiles[i].find(map, x, outside, first + i);
    for (int64_t c = 0; c < map.channels; c += WIDTH) {
        vec made[DEPTH][36];
        for (int64_t i = 0; i < DEPTH; i++) tiles[i].transform(c, made[i]);
        store_all(made, to(c), step);
    }
}

constexpr int64_t OUTPUTS = WIDTH / 2;  // of an outer product

// Sums over `count` tiles, to OUTPUTS rows, `across` numbers apart, of WIDE, added to what was there unless these are the `first`: of
// outputs, WIDTH of each tile, and inputs, WIDE of each; DEPTH tiles are side by side.
template <int HALVES>
static inline void outer_products(
    const number* outputs, const number* inputs, int64_t count, bool first, float* sums, int64_t across) {
    vec sum[OUTPUTS][2] = {};
    for (int64_t tile = 0; tile < count; tile += DEPTH) {
        factors part[HALVES];
        for (int half = 0; half < HALVES; half++) part[half] = load_side_by_side(inputs + tile * WIDE + half * WIDTH * DEPTH);
#pragma GCC unroll 8
        for (int64_t row = 0; row < OUTPUTS; row++)
            for (int half = 0; half < HALVES; half++)
                add_product(sum[row][half], outputs + tile * WIDTH + row * DEPTH, part[half]);
    }
    for (int64_t row = 0; row < OUTPUTS; row++)
        for (int half = 0; half < HALVES; half++) {
            float* place = sums + row * across + WIDTH * half;
            store(place, first ? sum[row][half] : load(place) + sum[row][half]);
        }
}

// The gradient of the weight, (out, 3, 3, in), from x (N, H, W, in) and dy (N, H, W, out), `at_a_time` tiles at a time, a multiple
// of DEPTH. All threads share each lot of tiles; or, of several `teams`, each thread takes whole lots, so that no core reads what
// another wrote, and has sums of its own. A team has room for transforms in `made`, 36 times `step`: inputs in panels of WIDE, then
// outputs in panels of WIDTH, tile after tile in each; and in `sums` for 36 times (out, in), `in` rounded up to a multiple of WIDE,
// and 16 numbers more.
extern "C" void winograd_weight_gradient(
    const number* x, const number* dy, float* dw, number* made, int64_t step, float* sums, int64_t teams, int64_t at_a_time,
    int64_t images, int64_t height, int64_t width, int64_t channels, int64_t out) {
    const Map input{images, height, width, channels}, output{images, height, width, out};
    const int64_t panels = (channels + WIDE - 1) / WIDE, across = panels * WIDE, sums_step = out * across + 16;
    const int64_t tiles = input.tiles();
    const std::vector<number> outside(std::max(channels, out));
    // Of DEPTH tiles from i on, counted from `start`
    const auto transform = [&](number* made, int64_t start, int64_t i) {
        number* outputs = made + at_a_time * across;
        const auto to_inputs = [=](int64_t c) { return made + (c / WIDE * at_a_time + i) * WIDE + c % WIDE * DEPTH; };
        const auto to_outputs = [=](int64_t c) { return outputs + c * at_a_time + i * WIDTH; };
        transform_side_by_side<InputTile>(input, x, outside.data(), start + i, to_inputs, step);
        transform_side_by_side<GradientTile>(output, dy, outside.data(), start + i, to_outputs, step);
    };
    // One of 36 times `panels` parts of the sums
    const auto multiply = [&](const number* made, float* sums, int64_t task, int64_t count, bool first) {
        const int64_t k = task / panels, panel = task % panels;
        for (int64_t o = 0; o < out; o += OUTPUTS)
            (channels - panel * WIDE > WIDTH ? outer_products<2> : outer_products<1>)(
                made + k * step + at_a_time * across + o / WIDTH * WIDTH * at_a_time + o % WIDTH * DEPTH,
                made + k * step + panel * at_a_time * WIDE, count, first,
                sums + k * sums_step + o * across + panel * WIDE, across);
    };
#pragma omp parallel
    {
        if (teams == 1)
            for (int64_t start = 0; start < tiles; start += at_a_time) {
                const int64_t count = std::min(at_a_time, tiles - start);
#pragma omp for schedule(static)
                for (int64_t i = 0; i < count; i += DEPTH) transform(made, start, i);
#pragma omp for schedule(static)
                for (int64_t task = 0; task < 36 * panels; task++) multiply(made, sums, task, count, start == 0);
            }
        else {
#pragma omp for schedule(static)
            for (int64_t team = 0; team < teams; team++) {
                number* own = made + team * 36 * step;
                float* own_sums = sums + team * 36 * sums_step;
                const int64_t from = team * at_a_time;
                for (int64_t start = from; start < tiles; start += teams * at_a_time) {
                    const int64_t count = std::min(at_a_time, tiles - start);
                    for (int64_t i = 0; i < count; i += DEPTH) transform(own, start, i);
                    for (int64_t task = 0; task < 36 * panels; task++) multiply(own, own_sums, task, count, start == from);
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t o = 0; o < out; o++)
            for (int64_t c = 0; c < channels; c += WIDTH) {
                vec u[36], t[18], d[9];
                for (int64_t k = 0; k < 36; k++) {
                    const float* place = sums + k * sums_step + o * across + c;
                    u[k] = load(place);
                    for (int64_t team = 1; team < teams; team++) u[k] += load(place + team * 36 * sums_step);
                }
                for (int j = 0; j < 6; j++) weight_gradient_pass(u + j, 6, t + j, 6);
                for (int i = 0; i < 3; i++) weight_gradient_pass(t + 6 * i, 1, d + 3 * i, 1);
                for (int64_t k = 0; k < 9; k++) store(dw + (9 * o + k) * channels + c, d[k]);
            }
    }
}
