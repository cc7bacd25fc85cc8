// The instructions of AMX that the kernels use, in AVX-512: for tests on processors that lack them. To be included before all else.
#pragma once

#include <immintrin.h>

#include <cassert>
#include <cstdint>
#include <cstring>

static thread_local __m512i tiles[8][16];  // rows of 64 bytes
static thread_local bool configured;

static inline void emulated_loadconfig(const void* config) {
    const uint8_t* bytes = static_cast<const uint8_t*>(config);
    assert(bytes[0] == 1);
    for (int tile = 0; tile < 8; tile++) {
        uint16_t columns;
        std::memcpy(&columns, bytes + 16 + 2 * tile, sizeof columns);
        assert(columns == 64 && bytes[48 + tile] == 16);
    }
    configured = true;
}

static inline void emulated_zero(int tile) {
    assert(configured);
    std::memset(tiles[tile], 0, sizeof tiles[tile]);
}

static inline void emulated_loadd(int tile, const void* from, int64_t stride) {
    assert(configured);
    for (int row = 0; row < 16; row++) tiles[tile][row] = _mm512_loadu_si512(static_cast<const char*>(from) + row * stride);
}

static inline void emulated_stored(int tile, void* to, int64_t stride) {
    assert(configured);
    for (int row = 0; row < 16; row++) _mm512_storeu_si512(static_cast<char*>(to) + row * stride, tiles[tile][row]);
}

// To (16 x 16 fp32) the product of a (16 x 16 pairs of bf16) and b (16 x 16 pairs, of which each row is multiplied by one of a's).
static inline void emulated_dpbf16ps(int to, int a, int b) {
    assert(configured);
    for (int row = 0; row < 16; row++) {
        __m512 sum = (__m512)tiles[to][row];
        for (int k = 0; k < 16; k++) {
            int32_t pair;
            std::memcpy(&pair, reinterpret_cast<const char*>(&tiles[a][row]) + 4 * k, sizeof pair);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)tiles[b][k]);
        }
        tiles[to][row] = (__m512i)sum;
    }
}

static inline void emulated_release() { configured = false; }

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_loadconfig
#define _tile_zero emulated_zero
#define _tile_loadd emulated_loadd
#define _tile_stored emulated_stored
#define _tile_dpbf16ps emulated_dpbf16ps
#define _tile_release emulated_release
