// Convolutions by Winograd's minimal filtering, and the transforms of their weights.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "winograd.h"

// A': from six to four.
static inline void output_pass(const vec* m, int from, vec* y, int to) {
    const vec s1 = m[from] + m[2 * from], d1 = NEAR * (m[from] - m[2 * from]);
    const vec s2 = m[3 * from] + m[4 * from], d2 = FAR * (m[3 * from] - m[4 * from]);
    y[0] = m[0] + s1 + s2;
    y[to] = d1 + d2;
    y[2 * to] = NEAR2 * s1 + FAR2 * s2;
    y[3 * to] = NEAR2 * d1 + FAR2 * d2 + m[5 * from];
}

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
                number* place = made + (panel * from + c) * WIDE + half * DEPTH;
                for (int64_t k = 0; k < 36; k++) store_side_by_side(place + k * step, u[0][k], u[DEPTH - 1][k]);
            }
}

// Whether this is less work than nine products for each place: of enough tiles, at least half of whose places are in the map.
extern "C" int64_t winograd_pays(int64_t images, int64_t height, int64_t width, int64_t channels) {
    const int64_t tiles = Map{images, height, width, channels}.tiles();
    return tiles >= (channels < MANY_CHANNELS ? LEAST_TILES : FEW) && 8 * tiles <= images * height * width;
}

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
            Patch<6> tile;
            tile.find(
                input, x, outside.data(), input.image(start + i), input.top(start + i) - 1, input.left(start + i) - 1);
            for (int64_t c = 0; c < channels; c += WIDTH) {
                vec each[36];
                transform<6>(tile, c, input_pass, each);
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
