/* Products of float32 rows with a matrix, to the bit those of MLAS, the library of ONNX Runtime's products: fused
 * multiply-adds in the order of the inner dimension, in blocks of DEPTH whose sums are added to the bias. That order is
 * all that decides a bit: how many rows and columns are summed at a time is free, and chosen so that sums stay in
 * registers, and a matrix is read once for several rows.
 */
#ifndef TOCSIN_PRODUCTS_H
#define TOCSIN_PRODUCTS_H
#include <stdint.h>
#include <string.h>

#define DEPTH 256
#define ABREAST 4 /* rows that are multiplied at once; x and y have room for so many, however many there are */
#define AHEAD 8 /* rows of a matrix that are fetched before they are needed */

/* y (rows, N) = x (rows, K) times w (K, N), plus a bias (N) where there is one. */
typedef void (*Multiply)(int32_t rows, int32_t K, int32_t N, const float *x, const float *w, const float *bias, float *y);

/* The sums of a tile over up to DEPTH: R rows of x by T vectors of columns of w. */
#define TILE(...) TILE_(__VA_ARGS__)
#define TILE_(NAME, TARGET, V, LANES, R, T, LOAD, STORE, SPREAD, FMA)                                                  \
    TARGET static inline void NAME(int32_t depth, int32_t K, int64_t N, const float *x, const float *w, float *sums) { \
        V sum[R][T];                                                                                                   \
        memset(sum, 0, sizeof sum);                                                                                    \
        for (int32_t k = 0; k < depth; k++, w += N) {                                                                  \
            V columns[T];                                                                                              \
            for (int t = 0; t < T; t++) {                                                                              \
                __builtin_prefetch(w + AHEAD * N + t * LANES);                                                         \
                columns[t] = LOAD(w + t * LANES);                                                                      \
            }                                                                                                          \
            for (int r = 0; r < R; r++) {                                                                              \
                V all = SPREAD(x[(int64_t)r * K + k]);                                                                 \
                for (int t = 0; t < T; t++) sum[r][t] = FMA(all, columns[t], sum[r][t]);                               \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int t = 0; t < T; t++) STORE(sums + (r * T + t) * LANES, sum[r][t]);                                  \
    }

/* R rows by all columns: as many tiles of the widest kind as there are, then of the next. The last of the narrowest may
 * lie over the one before it. */
#define ALL_COLUMNS(NAME, TARGET, R, WIDE, MIDDLE, NARROW, WIDE_TILE, MIDDLE_TILE, NARROW_TILE)                        \
    TARGET static void NAME(int32_t K, int32_t N, const float *x, const float *w, const float *bias, float *y) {       \
        float sums[R * WIDE];                                                                                          \
        for (int32_t n = 0, step; n < N; n += step) {                                                                  \
            step = N - n >= WIDE ? WIDE : N - n >= MIDDLE ? MIDDLE : N >= NARROW ? NARROW : 1;                         \
            if (step == NARROW && n + NARROW > N) n = N - NARROW;                                                      \
            for (int32_t k = 0; k < K; k += DEPTH) {                                                                   \
                int32_t depth = K - k < DEPTH ? K - k : DEPTH;                                                         \
                const float *part = w + (int64_t)k * N + n;                                                            \
                if (step == WIDE) WIDE_TILE(depth, K, N, x + k, part, sums);                                           \
                else if (step == MIDDLE) MIDDLE_TILE(depth, K, N, x + k, part, sums);                                  \
                else if (step == NARROW) NARROW_TILE(depth, K, N, x + k, part, sums);                                  \
                else one_column(R, depth, K, N, x + k, part, sums);                                                    \
                for (int r = 0; r < R; r++)                                                                            \
                    for (int32_t i = 0; i < step; i++) {                                                               \
                        float *to = y + (int64_t)r * N + n + i, sum = sums[r * step + i];                              \
                        *to = k ? *to + sum : bias ? bias[n + i] + sum : sum;                                          \
                    }                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }

#define MULTIPLY(NAME, TARGET, SEVERAL, ONE)                                                                           \
    TARGET static void NAME(int32_t rows, int32_t K, int32_t N, const float *x, const float *w, const float *bias,     \
                            float *y) {                                                                                \
        if (rows == 1) ONE(K, N, x, w, bias, y);                                                                       \
        else SEVERAL(K, N, x, w, bias, y);                                                                             \
    }

#if defined(__x86_64__)
#include <immintrin.h>

#define FAST __attribute__((target("avx2,fma")))
#define WIDEST __attribute__((target("avx512f,avx2,fma")))

FAST static inline void one_column(
    int rows, int32_t depth, int32_t K, int64_t N, const float *x, const float *w, float *sums) {
    for (int r = 0; r < rows; r++) {
        float sum = 0;
        for (int32_t k = 0; k < depth; k++) sum = __builtin_fmaf(x[(int64_t)r * K + k], w[k * N], sum);
        sums[r] = sum;
    }
}

#define LANES_8 _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps
#define LANES_16 _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps
TILE(tile_4x16, FAST, __m256, 8, 4, 2, LANES_8)
TILE(tile_4x8, FAST, __m256, 8, 4, 1, LANES_8)
TILE(tile_1x64, FAST, __m256, 8, 1, 8, LANES_8)
TILE(tile_1x32, FAST, __m256, 8, 1, 4, LANES_8)
TILE(tile_1x8, FAST, __m256, 8, 1, 1, LANES_8)
TILE(tile_4x64, WIDEST, __m512, 16, 4, 4, LANES_16)
TILE(tile_4x32, WIDEST, __m512, 16, 4, 2, LANES_16)
TILE(tile_1x128, WIDEST, __m512, 16, 1, 8, LANES_16)
ALL_COLUMNS(four_rows_256, FAST, 4, 16, 16, 8, tile_4x16, tile_4x16, tile_4x8)
ALL_COLUMNS(one_row_256, FAST, 1, 64, 32, 8, tile_1x64, tile_1x32, tile_1x8)
ALL_COLUMNS(four_rows_512, WIDEST, 4, 64, 16, 8, tile_4x64, tile_4x16, tile_4x8)
ALL_COLUMNS(one_row_512, WIDEST, 1, 128, 64, 8, tile_1x128, tile_1x64, tile_1x8)
MULTIPLY(multiply_256, FAST, four_rows_256, one_row_256)
MULTIPLY(multiply_512, WIDEST, four_rows_512, one_row_512)

static int fuses(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#ifdef TOCSIN_WITHOUT_AVX512 /* for tests, on a processor that has it */
static Multiply multiply_here(void) { return multiply_256; }
#else
static Multiply multiply_here(void) { return __builtin_cpu_supports("avx512f") ? multiply_512 : multiply_256; }
#endif
#else
#define FAST
#define COLUMNS 64

static void multiply_plainly(
    int32_t rows, int32_t K, int32_t N, const float *x, const float *w, const float *bias, float *y) {
    for (int32_t r = 0; r < rows; r++, x += K, y += N)
        for (int32_t n = 0; n < N; n += COLUMNS) {
            int32_t wide = N - n < COLUMNS ? N - n : COLUMNS;
            for (int32_t k0 = 0; k0 < K; k0 += DEPTH) {
                float sums[COLUMNS] = {0};
                for (int32_t k = k0; k < K && k < k0 + DEPTH; k++)
                    for (int32_t i = 0; i < wide; i++)
                        sums[i] = __builtin_fmaf(x[k], w[(int64_t)k * N + n + i], sums[i]);
                for (int32_t i = 0; i < wide; i++)
                    y[n + i] = k0 ? y[n + i] + sums[i] : bias ? bias[n + i] + sums[i] : sums[i];
            }
        }
}

#if defined(__aarch64__)
static int fuses(void) { return 1; }
#else
static int fuses(void) { return 0; }
#endif
static Multiply multiply_here(void) { return multiply_plainly; }
#endif
#endif
