// BN-ReLU and a block's sum in few passes: two forward, one where the sum took the statistics, and two backward. Tensors
// are in channels_last layout, that is (N, H, W, C) in memory, C a multiple of 16. Sums and statistics are fp32, and do
// not depend on the number of threads. What needs memory of its own, in proportion to the map, returns 1 if there is none.

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "vectors.h"

// Rows are summed in fp32 within a slab and over slabs in fp64, in their order: as exact as it takes, and the same for
// any number of threads.
static const int64_t SLAB = 512;

static void nothing(int64_t, int64_t) {}

// To `one` and `two`, which stay in registers meanwhile, what `terms` gives for COUNT rows.
template <int COUNT, typename Terms>
static inline void add_rows(int64_t row, int64_t channels, float* one, float* two, Terms terms) {
    for (int64_t c = 0; c < channels; c += WIDTH) {
        vec a = load(one + c), b = load(two + c);
#pragma GCC unroll 4
        for (int64_t i = 0; i < COUNT; i++) terms(row + i, c, a, b);
        store(one + c, a);
        store(two + c, b);
    }
}

// Two sums for each channel, to which `terms(row, channel, a, b)` adds those of WIDTH channels, COUNT rows at a time, after
// `before(begin, end)` of these.
template <int COUNT, typename Before, typename Terms>
static void sums(int64_t rows, int64_t channels, double* first, double* second, Before before, Terms terms) {
    const int64_t slabs = (rows + SLAB - 1) / SLAB;
    std::vector<float> partial(slabs * channels * 2);
#pragma omp parallel for schedule(static)
    for (int64_t slab = 0; slab < slabs; slab++) {
        const int64_t begin = slab * SLAB, end = std::min(rows, begin + SLAB);
        float *one = &partial[slab * channels * 2], *two = one + channels;
        int64_t r = begin;
        for (; r + COUNT <= end; r += COUNT) {
            before(r, r + COUNT);
            add_rows<COUNT>(r, channels, one, two, terms);
        }
        for (; r < end; r++) {
            before(r, r + 1);
            add_rows<1>(r, channels, one, two, terms);
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
template <typename Before, typename Value>
static void statistics(
    int64_t rows, int64_t channels, const float* start, float* mean, float* variance, Before before, Value value) {
    // Of distances from the first row: squares of large means would cancel
    std::vector<double> sum(channels), squares(channels);
    sums<4>(rows, channels, sum.data(), squares.data(), before, [=](int64_t r, int64_t c, vec& a, vec& b) {
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

extern "C" int bn_statistics(const number* x, int64_t rows, int64_t channels, float* mean, float* variance) try {
    std::vector<float> start(channels);
    for (int64_t c = 0; c < channels; c += WIDTH) store(&start[c], load(x + c));
    auto value = [=](int64_t r, int64_t c) { return load(x + r * channels + c); };
    statistics(rows, channels, start.data(), mean, variance, nothing, value);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

// s = a + b, and the statistics of s for the BN that comes next.
extern "C" int add_with_statistics(
    const number* a, const number* b, number* s, int64_t rows, int64_t channels, float* mean, float* variance) try {
    auto add = [=](int64_t begin, int64_t end) {
        for (int64_t at = begin * channels; at < end * channels; at += WIDTH) store(s + at, load(a + at) + load(b + at));
    };
    auto value = [=](int64_t r, int64_t c) { return load(s + r * channels + c); };
    add(0, 1);
    std::vector<float> start(channels);
    for (int64_t c = 0; c < channels; c += WIDTH) store(&start[c], value(0, c));
    statistics(rows, channels, start.data(), mean, variance, add, value);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
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
extern "C" int bn_relu_backward(
    const number* dy, const number* x, const number* more, number* dx, int64_t rows, int64_t channels,
    const float* mean, const float* inverse, const float* scale, const float* shift, float* dscale, float* dshift) try {
    std::vector<double> open(channels), along(channels);
    constexpr int COUNT = sizeof(number) == 2 ? 4 : 1;  // several rows of two fp32 arrays come slowly from memory
    sums<COUNT>(rows, channels, open.data(), along.data(), nothing, [=](int64_t r, int64_t c, vec& a, vec& b) {
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
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
