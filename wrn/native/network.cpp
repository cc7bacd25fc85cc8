// A network in one call: a list of layers that are walked through, so that small networks do not spend their time on calls. Maps
// are (N, H, W, C) in memory, and like weights of `number`; sums, biases, scales and shifts are fp32.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "vectors.h"

extern "C" int64_t winograd_pays(int64_t images, int64_t height, int64_t width, int64_t channels);
extern "C" void winograd_convolve(
    const number* x, const number* weight, int64_t weight_step, number* y, int64_t images, int64_t height, int64_t width,
    int64_t channels, int64_t out, const float* bias, const number* shortcut, int64_t relu);
extern "C" void scale_shift_relu(
    const number* x, number* y, int64_t rows, int64_t channels, const float* scale, const float* shift);

constexpr int64_t GROUPS = 8;  // products whose inputs stay in the caches while all outputs are made of them
constexpr int64_t TAPS = 49;   // of the largest kernel, 7x7

// The sums of one panel of outputs, or half of it, over all taps, for ROWS places from `first` on, of which `count` are to be had:
// to y, with what `direct_convolve` adds.
template <int HALVES>
static inline void convolve_places(
    const number* const (*from)[ROWS], const number* panel, number* y, int64_t first, int64_t count, int64_t c, int64_t channels,
    int64_t out, int64_t taps, const float* bias, const number* shortcut, bool relu) {
    vec sum[ROWS][2] = {};
    for (int64_t tap = 0; tap < taps; tap++) add_products<ROWS, HALVES>(from[tap], panel + tap * channels * WIDE, channels, sum);
    for (int64_t i = 0; i < count; i++)
        for (int half = 0; half < HALVES; half++) {
            const int64_t at = (first + i) * out + c + WIDTH * half;
            vec v = sum[i][half];
            if (bias) v += load(bias + c + WIDTH * half);
            if (shortcut) v += load(shortcut + at);
            if (relu) v = v < 0.0f ? vec{} : v;  // a NaN stays one
            store(y + at, v);
        }
}

// A convolution with a square kernel of 1, 3 or 7, padded by half of it: of x (N, H, W, in), `in` a multiple of DEPTH, and a weight
// (panels, kernel, kernel, in / DEPTH, WIDE, DEPTH), zeros beyond the last output, to y, plus bias (out) and shortcut (like y) if
// not null, then ReLU if it is wanted.
static void direct_convolve(
    const number* x, const number* weight, number* y, int64_t images, int64_t height, int64_t width, int64_t channels, int64_t out,
    int64_t kernel, int64_t stride, const float* bias, const number* shortcut, bool relu) {
    const int64_t pad = kernel / 2, taps = kernel * kernel, panels = (out + WIDE - 1) / WIDE;
    const int64_t rows = (height + 2 * pad - kernel) / stride + 1, columns = (width + 2 * pad - kernel) / stride + 1;
    const int64_t places = images * rows * columns, at_a_time = GROUPS * ROWS, blocks = (places + at_a_time - 1) / at_a_time;
    // Where there are few places, threads share the outputs among them, and each reads its own part of the weight
    const int64_t threads = omp_get_max_threads(), parts = blocks < 4 * threads ? std::min(panels, threads) : 1;
    const std::vector<number> outside(channels);  // zeros, of places beyond the map
#pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < parts * blocks; task++) {
        const int64_t part = task / blocks, start = task % blocks * at_a_time, end = std::min(start + at_a_time, places);
        const number* from[GROUPS][TAPS][ROWS];
        int64_t image = start / (rows * columns), row = start / columns % rows, column = start % columns;
        for (int64_t place = 0; place < at_a_time; place++) {  // those beyond the last are of nobody
            const number** to = &from[place / ROWS][0][place % ROWS];
            const int64_t top = row * stride - pad, left = column * stride - pad;
            for (int64_t i = top; i < top + kernel; i++)
                for (int64_t j = left; j < left + kernel; j++, to += ROWS) {
                    const bool inside = i >= 0 && i < height && j >= 0 && j < width && image < images;
                    *to = inside ? x + ((image * height + i) * width + j) * channels : outside.data();
                }
            if (++column == columns) column = 0, row++;
            if (row == rows) row = 0, image++;
        }
        for (int64_t panel = panels * part / parts; panel < panels * (part + 1) / parts; panel++)
            for (int64_t first = start; first < end; first += ROWS)
                (out - panel * WIDE > WIDTH ? convolve_places<2> : convolve_places<1>)(
                    from[(first - start) / ROWS], weight + panel * taps * channels * WIDE, y, first, std::min(ROWS, end - first),
                    panel * WIDE, channels, out, taps, bias, shortcut, relu);
    }
}

// Of x (N, H, W, C) the largest of 3 x 3 places, every other place, padded by 1.
static void max_pool(const number* x, number* y, int64_t images, int64_t height, int64_t width, int64_t channels) {
    const int64_t rows = (height - 1) / 2 + 1, columns = (width - 1) / 2 + 1;
#pragma omp parallel for schedule(static)
    for (int64_t place = 0; place < images * rows * columns; place++) {
        const int64_t image = place / (rows * columns), row = place / columns % rows * 2, column = place % columns * 2;
        const int64_t top = std::max<int64_t>(row - 1, 0), bottom = std::min(row + 2, height);
        const int64_t left = std::max<int64_t>(column - 1, 0), right = std::min(column + 2, width);
        for (int64_t c = 0; c < channels; c += WIDTH) {
            vec most = load(x + ((image * height + row) * width + column) * channels + c);
            for (int64_t i = top; i < bottom; i++)
                for (int64_t j = left; j < right; j++) {
                    const vec v = load(x + ((image * height + i) * width + j) * channels + c);
                    most = (v > most) | (v != v) ? v : most;  // a NaN stays one
                }
            store(y + place * channels + c, most);
        }
    }
}

// Of x (N, places, C) the means over places, (N, C). In fp32 over some places, then in fp64: where a map is flat, all errors of a
// long sum in fp32 are to one side.
static void means(const number* x, int64_t images, int64_t places, int64_t channels, float* made) {
    const int64_t at_a_time = 64;
    for (int64_t image = 0; image < images; image++)
        for (int64_t c = 0; c < channels; c += WIDTH) {
            double total[WIDTH] = {};
            for (int64_t start = 0; start < places; start += at_a_time) {
                vec sum = {};
                for (int64_t place = start; place < std::min(places, start + at_a_time); place++)
                    sum += load(x + (image * places + place) * channels + c);
                for (int64_t i = 0; i < WIDTH; i++) total[i] += sum[i];
            }
            for (int64_t i = 0; i < WIDTH; i++) made[image * channels + c + i] = static_cast<float>(total[i] / places);
        }
}

enum Kind : int64_t { SCALE_SHIFT_RELU, CONVOLUTION, MAX_POOL };

// Weights and vectors (biases, scales and shifts) are places in an array of each, or negative. Maps are numbered: 0 to 2 are room
// of the network's own, negative ones are what it is given, those from 3 on what a stage hands to the next.
struct Layer {
    int64_t kind, from, to, channels, out, kernel, stride;
    int64_t weight, winograd, winograd_step;
    int64_t vector;  // of SCALE_SHIFT_RELU scale, then shift; of CONVOLUTION bias
    int64_t adds, relu;  // adds: whether to what lies where y is to be
    int64_t height, width;
};

static void run(
    const Layer& layer, int64_t images, const number* from, const number* weights, const float* vectors, number* to) {
    const int64_t height = layer.height, width = layer.width, channels = layer.channels;
    const float* vector = layer.vector < 0 ? nullptr : vectors + layer.vector;
    const number* shortcut = layer.adds ? to : nullptr;
    if (layer.kind == MAX_POOL) max_pool(from, to, images, height, width, channels);
    else if (layer.kind == SCALE_SHIFT_RELU)
        scale_shift_relu(from, to, images * height * width, channels, vector, vector + channels);
    else if (layer.winograd >= 0 && winograd_pays(images, height, width, channels))
        winograd_convolve(
            from, weights + layer.winograd, layer.winograd_step, to, images, height, width, channels, layer.out, vector, shortcut,
            layer.relu);
    else
        direct_convolve(
            from, weights + layer.weight, to, images, height, width, channels, layer.out, layer.kernel, layer.stride, vector,
            shortcut, layer.relu);
}

// What a network is given, fp32 at any strides (of images, channels, rows and columns), of which `channels` are numbers: to
// (N, H, W, as many channels as its first layer takes), zeros beyond.
static void take(const float* x, const int64_t* strides, int64_t images, int64_t channels, const Layer& first, number* to) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < images * first.height; row++) {
        const float* from = x + row / first.height * strides[0] + row % first.height * strides[2];
        number* place = to + row * first.width * first.channels;
        for (int64_t column = 0; column < first.width; column++)
            for (int64_t c = 0; c < first.channels; c++)
                *place++ = c < channels ? rounded(from[column * strides[3] + c * strides[1]]) : number{};
    }
}

// Of x (N, channels, H, W) through all layers, and of the last map, which is `places` large, the means over its places: (N, C').
// Layers run in stages, up to `ends` each, `at_a_time` images at a time each, and each `handed` numbers of an image to the next.
// `maps` has room for four of `room` numbers each, for what is computed at a time, and for what is handed on.
extern "C" void run_network(
    const Layer* layers, const int64_t* ends, const int64_t* handed, const int64_t* at_a_time, int64_t stages, int64_t images,
    const float* x, const int64_t* strides, int64_t channels, const number* weights, const float* vectors, number* maps,
    int64_t room, int64_t places, float* features) {
    number *given = maps + 3 * room, *before = nullptr, *after = given + room;
    for (int64_t stage = 0, begin = 0; stage < stages; begin = ends[stage++]) {
        const Layer& last = layers[ends[stage] - 1];
        for (int64_t start = 0; start < images; start += at_a_time[stage]) {
            const int64_t now = std::min(at_a_time[stage], images - start);
            const auto map = [=](int64_t which) {
                if (which < 0) return given;
                if (which < 3) return maps + which * room;
                return which == 2 + stage ? before + start * handed[stage - 1] : after + start * handed[stage];
            };
            if (stage == 0) take(x + start * strides[0], strides, now, channels, layers[0], given);
            for (const Layer* layer = layers + begin; layer < layers + ends[stage]; layer++)
                run(*layer, now, map(layer->from), weights, vectors, map(layer->to));
            if (stage + 1 == stages) means(map(last.to), now, places, last.out, features + start * last.out);
        }
        before = after;
        after += images * handed[stage];
    }
}
