// The numbers that activations are made of, bf16 with AVX-512 if compiled with BF16, else fp32 with AVX2: as many at a time as a
// register holds in fp32, from and to any place in memory; and the product that convolutions are made of.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#ifdef BF16
typedef uint16_t number;
constexpr int64_t WIDTH = 16;
constexpr int64_t ROWS = 12;  // places or tiles of a product: ROWS x WIDE sums are what the registers hold
constexpr int64_t DEPTH = 2;  // numbers that are multiplied and added to one sum at a time
#else
typedef float number;
constexpr int64_t WIDTH = 8;
constexpr int64_t ROWS = 6;
constexpr int64_t DEPTH = 1;
#endif
constexpr int64_t WIDE = 2 * WIDTH;  // outputs of a product
constexpr int64_t FEW = 4;           // of its rows, where there are no more

typedef float vec __attribute__((vector_size(4 * WIDTH)));

static inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }

#ifdef BF16
static inline vec load(const number* p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}

static inline number rounded(float x) {  // to nearest even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<number>((x != x ? bits | 1 << 22 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline __m256i rounded(vec v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }  // to nearest even

static inline void store(number* p, vec v) { _mm256_storeu_si256((__m256i*)p, rounded(v)); }

// The DEPTH numbers that each of WIDTH sums takes next, side by side: the first and the last.
static inline void store_side_by_side(number* p, vec first, vec last) {
    const __m512i low = _mm512_cvtepu16_epi32(rounded(first)), high = _mm512_cvtepu16_epi32(rounded(last));
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

typedef __m512i factors;

static inline factors load_side_by_side(const number* p) { return _mm512_loadu_si512(p); }

// To each sum, the products of DEPTH numbers with its own factors.
static inline void add_product(vec& sum, const number* p, factors with) {
    int32_t both;
    std::memcpy(&both, p, sizeof both);
    sum = (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)with);
}
#else
static inline number rounded(float x) { return x; }

static inline void store_side_by_side(number* p, vec first, vec) { store(p, first); }

typedef vec factors;

static inline factors load_side_by_side(const number* p) { return load(p); }

static inline void add_product(vec& sum, const number* p, factors with) { sum += *p * with; }
#endif

// Adds, for each of the rows, the products of its `depth` numbers with a panel of a weight, (depth / DEPTH, WIDE, DEPTH), or with
// the first half of one.
template <int COUNT, int HALVES>
static inline void add_products(const number* const* rows, const number* panel, int64_t depth, vec (&sum)[ROWS][2]) {
    for (int64_t c = 0; c < depth; c += DEPTH) {
        factors part[HALVES];
        for (int half = 0; half < HALVES; half++) part[half] = load_side_by_side(panel + c * WIDE + half * WIDTH * DEPTH);
#pragma GCC unroll 12
        for (int64_t row = 0; row < COUNT; row++)
            for (int half = 0; half < HALVES; half++) add_product(sum[row][half], rows[row] + c, part[half]);
    }
}
