// ImageNet's transforms (fb.resnet.torch), as wrn/data/imagenet_transforms.py has them in torch's operations, and to the same bits:
// numbers are fp32 and each product is rounded before it is added (-ffp-contract=off). Pixels are RGB, side by side.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// torch7's bicubic along one axis: where an output coordinate looks in a row of `source` pixels, and with which weights.
struct Taps {
    int64_t at[4];
    float weight[4];

    Taps(int64_t source, int64_t target, int64_t coordinate) {
        const float scale = static_cast<float>(source - 1) / static_cast<float>(std::max<int64_t>(target - 1, 1));
        const float position = coordinate == target - 1 ? source - 1 : coordinate * scale;
        const int64_t first = static_cast<int64_t>(position);
        const double x = position - static_cast<float>(first), x2 = x * x, x3 = x2 * x;
        double before = -x + 2 * x2 - x3, left = 2 - 5 * x2 + 3 * x3, right = x + 4 * x2 - 3 * x3, after = -x2 + x3;
        if (first == 0) {  // past an edge the row goes on in a straight line
            left += 2 * before;
            right -= before;
            before = 0;
        }
        if (first + 2 >= source) {
            left -= after;
            right += 2 * after;
            after = 0;
        }
        const double weights[4] = {before, left, right, after};
        for (int64_t k = 0; k < 4; k++) {
            at[k] = std::clamp<int64_t>(first - 1 + k, 0, source - 1);
            weight[k] = static_cast<float>(weights[k] / 2);
        }
    }
};

typedef float pixel __attribute__((vector_size(16)));  // red, green, blue, and what comes after

static inline pixel load(const float* p) {
    pixel v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Of `pixels` (height, width, 3), resized to (to_height, to_width), the square of `size` from (top, left) on, mirrored or not:
// `out` (size, size, 3), in 0..255, neither rounded nor clipped.
extern "C" void picture_resample(
    const uint8_t* pixels, int64_t height, int64_t width, int64_t to_height, int64_t to_width, int64_t top, int64_t left,
    int64_t size, int64_t mirrored, float* out) {
    std::vector<Taps> columns;
    for (int64_t j = 0; j < size; j++) columns.emplace_back(width, to_width, left + (mirrored ? size - 1 - j : j));
    const auto [low, high] = std::minmax(columns.front().at[0], columns.back().at[0]);
    const int64_t begin = 3 * low, end = 3 * std::min(high + 4, width);  // what is looked at of a row
    std::vector<float> row(3 * width + 1), made(3 * size + 1);  // one number more, as pixels are taken four numbers at a time
    for (int64_t i = 0; i < size; i++) {
        const Taps rows(height, to_height, top + i);
        const uint8_t *p0 = pixels + rows.at[0] * width * 3, *p1 = pixels + rows.at[1] * width * 3;
        const uint8_t *p2 = pixels + rows.at[2] * width * 3, *p3 = pixels + rows.at[3] * width * 3;
        const float w0 = rows.weight[0], w1 = rows.weight[1], w2 = rows.weight[2], w3 = rows.weight[3];
        for (int64_t k = begin; k < end; k++) row[k] = p0[k] * w0 + p1[k] * w1 + p2[k] * w2 + p3[k] * w3;
        for (int64_t j = 0; j < size; j++) {
            const Taps& t = columns[j];
            const pixel sum = load(&row[3 * t.at[0]]) * t.weight[0] + load(&row[3 * t.at[1]]) * t.weight[1] +
                              load(&row[3 * t.at[2]]) * t.weight[2] + load(&row[3 * t.at[3]]) * t.weight[3];
            std::memcpy(&made[3 * j], &sum, sizeof sum);
        }
        std::memcpy(out + 3 * size * i, made.data(), 3 * size * sizeof(float));
    }
}

static inline float grey(const float* p) { return 0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2]; }

enum { BRIGHTNESS, CONTRAST, SATURATION };  // as pictures._CHANGES

// Each of the `changes`, in that order, by its factor; then `light` (3) is added. In place, pixels (count, 3).
extern "C" void picture_colours(
    float* pixels, int64_t count, const int64_t* changes, const float* factors, const float* others, int64_t number,
    const float* light) {
    for (int64_t n = 0; n < number; n++) {
        const float factor = factors[n], other = others[n];  // which is 1 - factor
        if (changes[n] == BRIGHTNESS) {
            for (int64_t i = 0; i < 3 * count; i++) pixels[i] *= factor;
        } else if (changes[n] == CONTRAST) {
            double sums[8] = {};
            for (int64_t i = 0; i < count; i++) sums[i % 8] += grey(pixels + 3 * i);
            double sum = 0;
            for (const double each : sums) sum += each;
            const float mean = other * static_cast<float>(sum / count);
            for (int64_t i = 0; i < 3 * count; i++) pixels[i] = pixels[i] * factor + mean;
        } else {
            for (int64_t i = 0; i < count; i++) {
                const float g = other * grey(pixels + 3 * i);
                for (int64_t c = 0; c < 3; c++) pixels[3 * i + c] = pixels[3 * i + c] * factor + g;
            }
        }
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < 3; c++) pixels[3 * i + c] += light[c];
}
