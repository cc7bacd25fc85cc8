// Eight numbers at a time, from and to any place in memory.
#pragma once

#include <cstring>

typedef float v8 __attribute__((vector_size(32)));

static inline v8 load(const float* p) {
    v8 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float* p, v8 v) { std::memcpy(p, &v, sizeof v); }
