// BN-ReLU and a block's sum in few passes: two forward, one where the sum took the statistics, and two backward. Tensors
// are in channels_last layout, that is (N, H, W, C) in memory, C a multiple of 16. Sums and statistics are fp32, and do
// not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vectors.h"

// Rows are summed in fp32 within a slab and over slabs in fp64, in their order: as exact as it takes, and the same for
// any number of threads.
static const int64_t SLAB = 512;

// Two sums for each channel, to which `terms(row, channel, a, b)` adds those of WIDTH channels.
template <typename Terms>
static void sums(int64_t rows, int64_t channels, double* first, double* second, Terms terms) {
    const int64_t slabs = (rows + SLAB - 1) / SLAB;
    std::vector<float> partial(slabs * channels * 2);
#pragma omp parallel for schedule(static)
    for (int64_t slab = 0; slab < slabs; slab++) {
        const int64_t begin = slab * SLAB, end = std::min(rows, begin + SLAB);
        float *one = &partial[slab * channels * 2], *two = one + channels;
        for (int64_t r = begin; r < end; r++)
            for (int64_t c = 0; c < channels; c += WIDTH) {
                vec a = load(one + c), b = load(two + c);
                terms(r, c, a, b);
                store(one + c, a);
                store(two + c, b);
            }
    }
    for (int64_t c = 0; c < channels; c++) first[c] = second[c] = 0;
    for (int64_t slab = 0; slab < slabs; slab++)
        for (int64_t c = 0; c < channels; c++) {
            first[c] += partial[slab * channels * 2 + c];
            second[c] += partial[slab * channels * 2 + channels + c];
        }
}

// Mean and variance of `value(row, channel)`, taken once each.
template <typename Value>
static void statistics(int64_t rows, int64_t channels, const float* start, float* mean, float* variance, Value value) {
    // Of distances from the first row: squares of large means would cancel
    std::vector<double> sum(channels), squares(channels);
    sums(rows, channels, sum.data(), squares.data(), [=](int64_t r, int64_t c, vec& a, vec& b) {
        const vec d = value(r, c) - load(start + c);
        a += d;
        b += d * d;
    });
    for (int64_t c = 0; c < channels; c++) {
        const double of_distances = sum[c] / rows;
        mean[c] = (float)(start[c] + of_distances);
        const double of_mean = squares[c] / rows - of_distances * of_distances;
        variance[c] = of_mean < 0 ? 0.0f : (float)of_mean;  // a NaN stays one
    }
}

extern "C" void bn_statistics(const number* x, int64_t rows, int64_t channels, float* mean, float* variance) {
    std::vector<float> start(channels);
    for (int64_t c = 0; c < channels; c += WIDTH) store(&start[c], load(x + c));
    auto value = [=](int64_t r, int64_t c) { return load(x + r * channels + c); };
    statistics(rows, channels, start.data(), mean, variance, value);
}

// s = a + b, and the statistics of s for the BN that comes next.
extern "C" void add_with_statistics(
    const number* a, const number* b, number* s, int64_t rows, int64_t channels, float* mean, float* variance) {
    auto sum = [=](int64_t r, int64_t c) {
        const int64_t at = r * channels + c;
        store(s + at, load(a + at) + load(b + at));
        return load(s + at);
    };
    std::vector<float> start(channels);
    for (int64_t c = 0; c < channels; c += WIDTH) store(&start[c], sum(0, c));
    statistics(rows, channels, start.data(), mean, variance, sum);
}

// y = max(0, x * scale + shift)
extern "C" void scale_shift_relu(
    const number* x, number* y, int64_t rows, int64_t channels, const float* scale, const float* shift) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c += WIDTH) {
            const vec v = load(x + r * channels + c) * load(scale + c) + load(shift + c);
            store(y + r * channels + c, v < 0.0f ? vec{} : v);  // a NaN stays one
        }
}

// From the gradient of y to those of x and of BN's scale and shift, in two passes; ReLU is found again.
// `more`, if not null, is added: the gradient of x from elsewhere.
extern "C" void bn_relu_backward(
    const number* dy, const number* x, const number* more, number* dx, int64_t rows, int64_t channels,
    const float* mean, const float* inverse, const float* scale, const float* shift, float* dscale, float* dshift) {
    std::vector<double> open(channels), along(channels);
    sums(rows, channels, open.data(), along.data(), [=](int64_t r, int64_t c, vec& a, vec& b) {
        const vec v = load(x + r * channels + c);
        const vec g = v * load(scale + c) + load(shift + c) > 0.0f ? load(dy + r * channels + c) : vec{};
        a += g;
        b += g * (v - load(mean + c));
    });
    // dx = scale * (g - mean of g - normalised x * mean of (g * normalised x)) = scale * g + x * slope + constant
    std::vector<float> slope(channels), constant(channels);
    for (int64_t c = 0; c < channels; c++) {
        dshift[c] = (float)open[c];
        dscale[c] = (float)(along[c] * inverse[c]);
        const double s = -(double)scale[c] * inverse[c] * inverse[c] * along[c] / rows;
        slope[c] = (float)s;
        constant[c] = (float)(-(double)scale[c] * open[c] / rows - s * mean[c]);
    }
    const float *slopes = slope.data(), *constants = constant.data();
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < channels; c += WIDTH) {
            const int64_t at = r * channels + c;
            const vec v = load(x + at), s = load(scale + c);
            const vec g = v * s + load(shift + c) > 0.0f ? load(dy + at) : vec{};
            vec out = v * load(slopes + c) + load(constants + c);
            if (more) out += load(more + at);
            store(dx + at, g * s + out);
        }
}
