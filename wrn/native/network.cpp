// A network in one call, fp32: a list of layers that are walked through, so that small networks do not spend their time on
// calls. Tensors are (N, H, W, C) in memory.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "vectors.h"

extern "C" int64_t winograd_pays(int64_t images, int64_t height, int64_t width);
extern "C" void winograd_convolve(
    const float* x, const float* weight, int64_t weight_step, float* y, int64_t images, int64_t height, int64_t width,
    int64_t channels, int64_t out, const float* bias, const float* shortcut, int64_t relu);
extern "C" void scale_shift_relu(
    const float* x, float* y, int64_t rows, int64_t channels, const float* scale, const float* shift);

constexpr int64_t GROUPS = 8;  // products whose inputs stay in the caches while all outputs are made of them
constexpr int64_t TAPS = 49;   // of the largest kernel, 7x7

// A convolution with a square kernel of 1, 3 or 7, padded by half of it: of x (N, H, W, in) and a weight (out / 16, kernel, kernel,
// in, 16) to y, plus bias (out) and shortcut (like y) if not null, then ReLU if it is wanted.
extern "C" void direct_convolve(
    const float* x, const float* weight, float* y, int64_t images, int64_t height, int64_t width, int64_t channels, int64_t out,
    int64_t kernel, int64_t stride, const float* bias, const float* shortcut, int64_t relu) {
    const int64_t pad = kernel / 2, taps = kernel * kernel, panels = out / WIDE;
    const int64_t rows = (height + 2 * pad - kernel) / stride + 1, columns = (width + 2 * pad - kernel) / stride + 1;
    const int64_t places = images * rows * columns, at_a_time = GROUPS * ROWS, blocks = (places + at_a_time - 1) / at_a_time;
    // Where there are few places, threads share the outputs among them, and each reads its own part of the weight
    const int64_t threads = omp_get_max_threads(), parts = blocks < 4 * threads ? std::min(panels, threads) : 1;
    const std::vector<float> outside(channels);  // zeros, of places beyond the map
#pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < parts * blocks; task++) {
        const int64_t part = task / blocks, start = task % blocks * at_a_time, end = std::min(start + at_a_time, places);
        const float* from[GROUPS][TAPS][ROWS];
        int64_t image = start / (rows * columns), row = start / columns % rows, column = start % columns;
        for (int64_t place = 0; place < at_a_time; place++) {  // those beyond the last are of nobody
            const float** to = &from[place / ROWS][0][place % ROWS];
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
            for (int64_t first = start; first < end; first += ROWS) {
                vec sum[ROWS][2] = {};
                for (int64_t tap = 0; tap < taps; tap++)
                    add_products(
                        from[(first - start) / ROWS][tap], weight + (panel * taps + tap) * channels * WIDE, channels, sum);
                for (int64_t i = 0; i < std::min(ROWS, end - first); i++)
                    for (int64_t half = 0; half < 2; half++) {
                        const int64_t c = panel * WIDE + WIDTH * half, at = (first + i) * out + c;
                        vec v = sum[i][half];
                        if (bias) v += load(bias + c);
                        if (shortcut) v += load(shortcut + at);
                        if (relu) v = v < 0.0f ? vec{} : v;  // a NaN stays one
                        store(y + at, v);
                    }
            }
    }
}

// Of x (N, H, W, C) the largest of 3 x 3 places, every other place, padded by 1.
static void max_pool(const float* x, float* y, int64_t images, int64_t height, int64_t width, int64_t channels) {
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

// Of x (N, places, C) the means over places, (N, C).
static void means(const float* x, int64_t images, int64_t places, int64_t channels, float* made) {
    for (int64_t image = 0; image < images; image++)
        for (int64_t c = 0; c < channels; c += WIDTH) {
            vec sum = {};
            for (int64_t place = 0; place < places; place++) sum += load(x + (image * places + place) * channels + c);
            store(made + image * channels + c, sum / static_cast<float>(places));
        }
}

enum Kind : int64_t { SCALE_SHIFT_RELU, CONVOLUTION, MAX_POOL };

// Weights are places in an array of all, or negative. Maps are numbered: 0 to 2 are room of the network's own, negative ones
// are what it is given.
struct Layer {
    int64_t kind, from, to, channels, out, kernel, stride;
    int64_t weight;  // of SCALE_SHIFT_RELU scale, then shift
    int64_t winograd, winograd_step;
    int64_t bias, adds, relu;  // adds: whether to what lies where y is to be
    int64_t height, width;
};

static void run(const Layer& layer, int64_t images, const float* from, const float* weights, float* to) {
    const int64_t height = layer.height, width = layer.width, channels = layer.channels;
    if (layer.kind == MAX_POOL) {
        max_pool(from, to, images, height, width, channels);
        return;
    }
    const float* weight = weights + layer.weight;
    if (layer.kind == SCALE_SHIFT_RELU) {
        scale_shift_relu(from, to, images * height * width, channels, weight, weight + channels);
        return;
    }
    const float* bias = layer.bias < 0 ? nullptr : weights + layer.bias;
    const float* shortcut = layer.adds ? to : nullptr;
    if (layer.winograd >= 0 && winograd_pays(images, height, width))
        winograd_convolve(
            from, weights + layer.winograd, layer.winograd_step, to, images, height, width, channels, layer.out, bias, shortcut,
            layer.relu);
    else
        direct_convolve(
            from, weight, to, images, height, width, channels, layer.out, layer.kernel, layer.stride, bias, shortcut, layer.relu);
}

// Of x (N, H, W, C), `at_a_time` images at a time, through all layers, and of the last map, which is `places` large, the means
// over its places: (N, C'). `maps` has room for three of `room` numbers each.
extern "C" void run_network(
    const Layer* layers, int64_t count, int64_t images, int64_t at_a_time, const float* x, const float* weights, float* maps,
    int64_t room, int64_t places, float* features) {
    const Layer &first = layers[0], &last = layers[count - 1];
    for (int64_t start = 0; start < images; start += at_a_time) {
        const int64_t now = std::min(at_a_time, images - start);
        const float* given = x + start * first.height * first.width * first.channels;
        for (const Layer* layer = layers; layer < layers + count; layer++)
            run(*layer, now, layer->from < 0 ? given : maps + layer->from * room, weights, maps + layer->to * room);
        means(maps + last.to * room, now, places, last.out, features + start * last.out);
    }
}
