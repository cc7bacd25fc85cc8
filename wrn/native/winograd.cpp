// The transforms of Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2015, arXiv 1509.09308), fp32: a 3x3 convolution
// of stride 1, padded by 1, as 36 matrix products, a quarter of the multiplications. Tensors are (N, H, W, C) in memory, H
// and W multiples of 4, C of 8. A tile is 4 x 4 places of the output; what is made of tiles is (36, tiles, C), each of the 36
// `step` numbers after the one before.

#include <cstdint>
#include <cstring>
#include <vector>

typedef float v8 __attribute__((vector_size(32)));

static inline v8 load(const float* p) {
    v8 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float* p, v8 v) { std::memcpy(p, &v, sizeof v); }

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

// Of a weight (out, 3, 3, in), turned by half a turn if `turned`: (36, out, in).
extern "C" void winograd_weight(const float* w, float* made, int64_t out, int64_t channels, int64_t turned) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; o++)
        for (int64_t c = 0; c < channels; c += 8) {
            v8 d[9], t[18], u[36];
            for (int64_t k = 0; k < 9; k++) d[k] = load(w + (9 * o + (turned ? 8 - k : k)) * channels + c);
            for (int j = 0; j < 3; j++) weight_pass(d + j, 3, t + j, 3);
            for (int i = 0; i < 6; i++) weight_pass(t + 3 * i, 1, u + 6 * i, 1);
            for (int64_t k = 0; k < 36; k++) store(made + (k * out + o) * channels + c, u[k]);
        }
}

// From the sums of products, (36, out, in), to the gradient of the weight (out, 3, 3, in).
extern "C" void winograd_weight_gradient(const float* made, float* dw, int64_t out, int64_t channels) {
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; o++)
        for (int64_t c = 0; c < channels; c += 8) {
            v8 u[36], t[18], d[9];
            for (int64_t k = 0; k < 36; k++) u[k] = load(made + (k * out + o) * channels + c);
            for (int j = 0; j < 6; j++) weight_gradient_pass(u + j, 6, t + j, 6);
            for (int i = 0; i < 3; i++) weight_gradient_pass(t + 6 * i, 1, d + 3 * i, 1);
            for (int64_t k = 0; k < 9; k++) store(dw + (9 * o + k) * channels + c, d[k]);
        }
}

// Of the input: 6 x 6 places for each tile, which overlap; zeros outside of the map.
extern "C" void winograd_input(
    const float* x, float* made, int64_t step, int64_t images, int64_t height, int64_t width, int64_t channels) {
    const int64_t rows = height / 4, columns = width / 4, tiles = images * rows * columns;
    const std::vector<float> outside(channels);
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t image = tile / (rows * columns), top = tile / columns % rows * 4 - 1, left = tile % columns * 4 - 1;
        const float* from[36];
        for (int64_t i = 0; i < 6; i++)
            for (int64_t j = 0; j < 6; j++) {
                const int64_t row = top + i, column = left + j;
                const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                const int64_t place = (image * height + row) * width + column;
                from[6 * i + j] = inside ? x + place * channels : outside.data();
            }
        for (int64_t c = 0; c < channels; c += 8) {
            v8 d[36], t[36];
            for (int k = 0; k < 36; k++) d[k] = load(from[k] + c);
            for (int j = 0; j < 6; j++) input_pass(d + j, 6, t + j, 6);
            for (int i = 0; i < 6; i++) input_pass(t + 6 * i, 1, d + 6 * i, 1);
            float* to = made + tile * channels + c;
            for (int64_t k = 0; k < 36; k++) store(to + k * step, d[k]);
        }
    }
}

// Of the products, to the output; `bias` (C) and `shortcut` (N, H, W, C) are added if not null, then ReLU if it is wanted.
extern "C" void winograd_output(
    const float* made, float* y, int64_t step, int64_t images, int64_t height, int64_t width, int64_t channels, const float* bias,
    const float* shortcut, int64_t relu) {
    const int64_t rows = height / 4, columns = width / 4, tiles = images * rows * columns;
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t image = tile / (rows * columns), top = tile / columns % rows * 4, left = tile % columns * 4;
        for (int64_t c = 0; c < channels; c += 8) {
            v8 m[36], t[24], out[16];
            const float* from = made + tile * channels + c;
            for (int64_t k = 0; k < 36; k++) m[k] = load(from + k * step);
            for (int j = 0; j < 6; j++) output_pass(m + j, 6, t + j, 6);
            for (int i = 0; i < 4; i++) output_pass(t + 6 * i, 1, out + 4 * i, 1);
            const v8 added = bias ? load(bias + c) : v8{};
            for (int64_t i = 0; i < 4; i++)
                for (int64_t j = 0; j < 4; j++) {
                    const int64_t at = ((image * height + top + i) * width + left + j) * channels + c;
                    v8 v = out[4 * i + j] + added;
                    if (shortcut) v += load(shortcut + at);
                    if (relu) v = v < 0.0f ? v8{} : v;  // a NaN stays one
                    store(y + at, v);
                }
        }
    }
}

// Of the gradient of the output, for that of the weight.
extern "C" void winograd_gradient(
    const float* dy, float* made, int64_t step, int64_t images, int64_t height, int64_t width, int64_t channels) {
    const int64_t rows = height / 4, columns = width / 4, tiles = images * rows * columns;
#pragma omp parallel for schedule(static)
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t image = tile / (rows * columns), top = tile / columns % rows * 4, left = tile % columns * 4;
        for (int64_t c = 0; c < channels; c += 8) {
            v8 y[16], t[24], m[36];
            for (int64_t i = 0; i < 4; i++)
                for (int64_t j = 0; j < 4; j++)
                    y[4 * i + j] = load(dy + ((image * height + top + i) * width + left + j) * channels + c);
            for (int j = 0; j < 4; j++) gradient_pass(y + j, 4, t + j, 4);
            for (int i = 0; i < 6; i++) gradient_pass(t + 4 * i, 1, m + 6 * i, 1);
            float* to = made + tile * channels + c;
            for (int64_t k = 0; k < 36; k++) store(to + k * step, m[k]);
        }
    }
}
