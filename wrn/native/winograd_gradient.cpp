// Gradients of 3x3 weights by Winograd's minimal filtering: of a convolution of stride 1, 36 products for the 144 of a tile; of
// stride 2, 81. In either there are 6 x 6 sums. With stride 2, in each direction, an output takes an odd place of the input times
// the first weight, the next odd one times the last, and the even one between them times the middle. The former are a filter of
// two weights, 5 products for 4 outputs; the latter stay 4 products, which share the sixth sum.

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "winograd.h"

// A: of four, the values of their polynomial at all places but 0.
static inline void gradient_pass(const vec* y, int from, vec* m, int to) {
    const vec y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    const vec even = y0 + NEAR2 * y2, odd = NEAR * (y1 + NEAR2 * y3);
    const vec even2 = y0 + FAR2 * y2, odd2 = FAR * (y1 + FAR2 * y3);
    m[0] = even + odd;
    m[to] = even - odd;
    m[2 * to] = even2 + odd2;
    m[3 * to] = even2 - odd2;
    m[4 * to] = y3;
}

struct Plain {
    static constexpr int64_t STRIDE = 1, SIZE = 6;  // of a tile's input, and of its transform

    static void input(const vec* d, int from, vec* t, int to) { input_pass(d, from, t, to); }

    static void output(const vec* y, int from, vec* m, int to) {
        m[0] = y[0];
        gradient_pass(y, from, m + to, to);
    }

    // G': from six sums to three weights.
    static void weight(const vec* u, int from, vec* w, int to) {
        const vec s1 = OF_NEAR * (u[from] + u[2 * from]), d1 = OF_NEAR * (u[from] - u[2 * from]);
        const vec s2 = OF_FAR * (u[3 * from] + u[4 * from]), d2 = OF_FAR * (u[3 * from] - u[4 * from]);
        w[0] = u[0] + s1 + s2;
        w[to] = NEAR * d1 + FAR * d2;
        w[2 * to] = NEAR2 * s1 + FAR2 * s2 + u[5 * from];
    }
};

struct Strided {
    static constexpr int64_t STRIDE = 2, SIZE = 9;

    // Of five odd places their transform, which leaves out the place 0; then four even ones.
    static void input(const vec* d, int from, vec* t, int to) {
        const vec o0 = d[0], o1 = d[2 * from], o2 = d[4 * from], o3 = d[6 * from], o4 = d[8 * from];
        const vec even = NEAR * o2 - FAR * o0, odd = o3 - FAR2 * o1;
        const vec even2 = FAR * o2 - NEAR * o0, odd2 = o3 - NEAR2 * o1;
        t[0] = odd + even;
        t[to] = odd - even;
        t[2 * to] = odd2 + even2;
        t[3 * to] = odd2 - even2;
        t[4 * to] = o0 - (NEAR2 + FAR2) * o2 + o4;
        for (int i = 0; i < 4; i++) t[(5 + i) * to] = d[(1 + 2 * i) * from];
    }

    static void output(const vec* y, int from, vec* m, int to) {
        gradient_pass(y, from, m, to);
        for (int i = 0; i < 4; i++) m[(5 + i) * to] = y[i * from];
    }

    static void weight(const vec* u, int from, vec* w, int to) {
        const vec s1 = OF_NEAR * (u[0] + u[from]), d1 = OF_NEAR * (u[0] - u[from]);
        const vec s2 = OF_FAR * (u[2 * from] + u[3 * from]), d2 = OF_FAR * (u[2 * from] - u[3 * from]);
        w[0] = NEAR * d1 + FAR * d2;
        w[to] = u[5 * from];
        w[2 * to] = NEAR2 * s1 + FAR2 * s2 + u[4 * from];
    }
};

// The transforms of a tile, SIZE x SIZE of them, in the order of their sums: those of the k-th from first[k] up to first[k + 1].
template <typename Algorithm>
struct Order {
    static constexpr int64_t SIZE = Algorithm::SIZE, PLACES = SIZE * SIZE;
    std::array<int64_t, 37> first{};
    std::array<int64_t, PLACES> place{};

    constexpr Order() {
        int64_t next = 0;
        for (int64_t k = 0; k < 36; k++) {
            first[k] = next;
            for (int64_t i = 0; i < SIZE; i++)
                for (int64_t j = 0; j < SIZE; j++)
                    if (6 * std::min<int64_t>(i, 5) + std::min<int64_t>(j, 5) == k) place[SIZE * i + j] = next++;
        }
        first[36] = next;
    }
};
template <typename Algorithm>
constexpr Order<Algorithm> ORDER;

// Those of DEPTH tiles side by side, each `step` numbers after the one before: of WIDTH channels from c on to `to(c)`.
template <typename Algorithm, int64_t COUNT, typename Pass, typename To>
static inline void transform_side_by_side(const Patch<COUNT> (&tiles)[DEPTH], int64_t channels, Pass pass, To to, int64_t step) {
    for (int64_t c = 0; c < channels; c += WIDTH) {
        vec made[DEPTH][Order<Algorithm>::PLACES];
        for (int64_t i = 0; i < DEPTH; i++) transform<Algorithm::SIZE>(tiles[i], c, pass, made[i]);
        for (int64_t k = 0; k < Order<Algorithm>::PLACES; k++)
            store_side_by_side(to(c) + ORDER<Algorithm>.place[k] * step, made[0][k], made[DEPTH - 1][k]);
    }
}

constexpr int64_t OUTPUTS = WIDTH / 2;  // of an outer product

// Sums over `count` tiles, to OUTPUTS rows, `across` numbers apart, of WIDE, added to what was there unless these are the
// `first`: of outputs, WIDTH of each tile, and inputs, WIDE of each; DEPTH tiles are side by side.
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

// The gradient of the weight, (out, 3, 3, in), from x (N, H, W, in) and dy (N, H', W', out), `at_a_time` tiles at a time, a
// multiple of DEPTH. All threads share each lot of tiles; or, of several `teams`, each takes whole lots, so that no core reads
// transforms that another wrote, and has sums of its own, which are added in the end. A team has room for transforms in `made`,
// PLACES times `step`: inputs in panels of WIDE, then outputs in panels of WIDTH, tile after tile in each; and in `sums` for 36
// times (out, in), `in` rounded up to a multiple of WIDE, and 16 numbers more.
template <typename Algorithm>
static void gradient(
    const number* x, const number* dy, float* dw, number* made, int64_t step, float* sums, int64_t teams, int64_t at_a_time,
    const Map& input, const Map& output) {
    constexpr int64_t STRIDE = Algorithm::STRIDE, PLACES = Order<Algorithm>::PLACES;
    const int64_t channels = input.channels, out = output.channels, tiles = output.tiles();
    const int64_t panels = (channels + WIDE - 1) / WIDE, across = panels * WIDE, sums_step = out * across + 16;
    const std::vector<number> outside(std::max(channels, out));
    // Of DEPTH tiles from i on, counted from `start`
    const auto transform_tiles = [&](number* made, int64_t start, int64_t i) {
        Patch<Algorithm::SIZE> inputs[DEPTH];
        Patch<4> outputs[DEPTH];
        for (int64_t each = 0; each < DEPTH; each++) {
            const int64_t tile = start + i + each, image = output.image(tile), top = output.top(tile), left = output.left(tile);
            inputs[each].find(input, x, outside.data(), image, STRIDE * top - 1, STRIDE * left - 1);
            outputs[each].find(output, dy, outside.data(), image, top, left);
        }
        const auto to_inputs = [=](int64_t c) { return made + (c / WIDE * at_a_time + i) * WIDE + c % WIDE * DEPTH; };
        const auto to_outputs = [=](int64_t c) { return made + at_a_time * across + c * at_a_time + i * WIDTH; };
        transform_side_by_side<Algorithm>(inputs, channels, Algorithm::input, to_inputs, step);
        transform_side_by_side<Algorithm>(outputs, out, Algorithm::output, to_outputs, step);
    };
    // One of 36 times `panels` parts of the sums
    const auto multiply = [&](const number* made, float* sums, int64_t task, int64_t count, bool first) {
        const int64_t k = task / panels, panel = task % panels, begin = ORDER<Algorithm>.first[k];
        for (int64_t place = begin; place < ORDER<Algorithm>.first[k + 1]; place++)
            for (int64_t o = 0; o < out; o += OUTPUTS)
                (channels - panel * WIDE > WIDTH ? outer_products<2> : outer_products<1>)(
                    made + place * step + at_a_time * across + o / WIDTH * WIDTH * at_a_time + o % WIDTH * DEPTH,
                    made + place * step + panel * at_a_time * WIDE, count, first && place == begin,
                    sums + k * sums_step + o * across + panel * WIDE, across);
    };
    // Of these, for each thread at a time: all it gets, the same of each lot; or single ones, where some take 4 or 16 times as long
    const int64_t threads = omp_get_max_threads(), share = STRIDE == 1 ? (36 * panels + threads - 1) / threads : 1;
#pragma omp parallel
    {
        if (teams == 1)
            for (int64_t start = 0; start < tiles; start += at_a_time) {
                const int64_t count = std::min(at_a_time, tiles - start);
#pragma omp for schedule(static)
                for (int64_t i = 0; i < count; i += DEPTH) transform_tiles(made, start, i);
#pragma omp for schedule(static, share)
                for (int64_t task = 0; task < 36 * panels; task++) multiply(made, sums, task, count, start == 0);
            }
        else {
#pragma omp for schedule(static)
            for (int64_t team = 0; team < teams; team++) {
                number* own = made + team * PLACES * step;
                float* own_sums = sums + team * 36 * sums_step;
                const int64_t from = team * at_a_time;
                for (int64_t start = from; start < tiles; start += teams * at_a_time) {
                    const int64_t count = std::min(at_a_time, tiles - start);
                    for (int64_t i = 0; i < count; i += DEPTH) transform_tiles(own, start, i);
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
                for (int j = 0; j < 6; j++) Algorithm::weight(u + j, 6, t + j, 6);
                for (int i = 0; i < 3; i++) Algorithm::weight(t + 6 * i, 1, d + 3 * i, 1);
                for (int64_t k = 0; k < 9; k++) store(dw + (9 * o + k) * channels + c, d[k]);
            }
    }
}

extern "C" void winograd_weight_gradient(
    const number* x, const number* dy, float* dw, number* made, int64_t step, float* sums, int64_t teams, int64_t at_a_time,
    int64_t images, int64_t height, int64_t width, int64_t channels, int64_t out, int64_t stride) {
    const Map input{images, height, width, channels};
    const Map output{images, (height - 1) / stride + 1, (width - 1) / stride + 1, out};
    (stride == 1 ? gradient<Plain> : gradient<Strided>)(x, dy, dw, made, step, sums, teams, at_a_time, input, output);
}
