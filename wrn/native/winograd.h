// Winograd's minimal filtering (Lavin & Gray 2015, arXiv 1509.09308) of 3x3 convolutions padded by 1: as F(4x4, 3x3), of stride 1,
// 36 matrix products, a quarter of the multiplications. Tensors are (N, H, W, C) in memory, C a multiple of WIDTH. A tile is
// 4 x 4 places of the output, the last ones of a map fewer. Transforms and sums are computed in fp32; what is multiplied is
// rounded to `number`, and lies `step` numbers after what belongs to the product before.

#pragma once

#include <cstdint>

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

// What each place's products are multiplied by: one over the product of its distances from the others.
constexpr float OF_NEAR = 1 / (2 * NEAR2 * (NEAR2 - FAR2)), OF_FAR = 1 / (2 * FAR2 * (FAR2 - NEAR2));

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

// Where SIZE x SIZE places of a map are, of which some may lie beyond it, or belong to an image beyond the last: these are
// `outside`, zeros.
template <int64_t SIZE>
struct Patch {
    const number* from[SIZE * SIZE];

    void find(const Map& map, const number* x, const number* outside, int64_t image, int64_t top, int64_t left) {
        for (int64_t i = 0; i < SIZE; i++)
            for (int64_t j = 0; j < SIZE; j++) {
                const int64_t row = top + i, column = left + j;
                const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width && image < map.images;
                from[SIZE * i + j] = inside ? x + map.at(image, row, column) : outside;
            }
    }
};

// Of such places and WIDTH channels from c on, SIZE x SIZE values: by passes in one direction, then in the other.
template <int64_t SIZE, int64_t COUNT, typename Pass>
static inline void transform(const Patch<COUNT>& tile, int64_t c, Pass pass, vec* made) {
    vec t[SIZE * COUNT];
    for (int64_t j = 0; j < COUNT; j++) {
        vec d[COUNT];
        for (int64_t i = 0; i < COUNT; i++) d[i] = load(tile.from[COUNT * i + j] + c);
        pass(d, 1, t + j, COUNT);
    }
    for (int64_t i = 0; i < SIZE; i++) pass(t + COUNT * i, 1, made + SIZE * i, 1);
}
