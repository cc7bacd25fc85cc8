// Eight numbers at a time, from and to any place in memory; and the product that convolutions in fp32 are made of.
#pragma once

#include <cstdint>
#include <cstring>

typedef float v8 __attribute__((vector_size(32)));

static inline v8 load(const float* p) {
    v8 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float* p, v8 v) { std::memcpy(p, &v, sizeof v); }

constexpr int64_t WIDE = 16;  // outputs of a product
constexpr int64_t ROWS = 6;   // places or tiles of a product: 6 x 16 sums are what the registers hold

// Adds, for each of the rows, the products of its `depth` numbers with a panel (depth, WIDE) of a weight.
static inline void add_products(const float* const* rows, const float* panel, int64_t depth, v8 (&sum)[ROWS][2]) {
    for (int64_t c = 0; c < depth; c++) {
        const v8 low = load(panel + c * WIDE), high = load(panel + c * WIDE + 8);
#pragma GCC unroll 6
        for (int64_t row = 0; row < ROWS; row++) {
            const float value = rows[row][c];
            sum[row][0] += value * low;
            sum[row][1] += value * high;
        }
    }
}
