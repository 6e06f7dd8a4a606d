/* Matrix products of bfloat16 on AMX tiles (Intel SDM vol. 1, chapter 18), accumulated in float32.
 *
 * A weight of shape (out, in) is kept in panels of 32 outputs; a panel is a row of pairs of tiles, 32
 * inputs each, in the order in which they are read:
 *     panel[in / 32][half][pair][output][2], half 16 outputs, pair 2 neighbouring inputs.
 *
 * The functions that split their work say `omp for`: inside a parallel region every thread of the team
 * takes a part and waits for the others, outside of one the calling thread does it all.
 */
#ifndef HYBRID_INFER_TILES_H
#define HYBRID_INFER_TILES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

enum { TILE = 16, PANEL = 32, STEP = 32 };

/* Rows behind the last one that a product may read; what is there reaches no result. */
enum { SPARE_ROWS = 32 };

/* All eight tiles hold 16 rows of 64 bytes. Each thread must say so before its first product. */
static inline void configure_tiles(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_per_row[16];
        uint8_t rows[16];
    } __attribute__((packed)) config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int tile = 0; tile < 8; tile++) {
        config.bytes_per_row[tile] = 64;
        config.rows[tile] = TILE;
    }
    _tile_loadconfig(&config);
}

static inline __m512 widen(__m256i values)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

static inline __m512 load_bf16(const bf16 *from)
{
    return widen(_mm256_loadu_si256((const __m256i *)from));
}

static inline void store_bf16(bf16 *to, __m512 values)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

static inline void store_bf16_pair(bf16 *to, __m512 first, __m512 second)
{
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

/* x * Phi(x), with Phi(x) - 1/2 = x * P(x * x) fitted for |x| <= 4 by reweighted least squares; the
 * error is below 8e-6 there, and Phi stays at Phi(4) beyond. A NaN stays one. */
static inline __m512 gelu(__m512 x)
{
    const __m512 edge = _mm512_set1_ps(4.0f);
    const __m512 near = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), edge), _mm512_min_ps(edge, x));
    const __m512 square = _mm512_mul_ps(near, near);
    __m512 sum = _mm512_set1_ps(6.740152319e-11f);
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(-6.066755146e-09f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(2.440805826e-07f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(-5.860545078e-06f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(9.493979523e-05f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(-1.112853824e-03f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(9.815794387e-03f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(-6.632361890e-02f));
    sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(3.988810077e-01f));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(sum, near, _mm512_set1_ps(0.5f)));
}

/* 2 to the power of x, by a polynomial for what is behind the point; relative error below 8e-5, a fiftieth of
 * what bfloat16 rounds off. A NaN stays one. */
static inline __m512 exp2_of(__m512 x)
{
    const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 sum = _mm512_set1_ps(7.802363541e-02f);
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(2.260672377e-01f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(6.958341432e-01f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.999250868e-01f));
    return _mm512_scalef_ps(sum, x); /* which rounds x down */
}

/* What is done between two steps of a product, while the tiles are busy. */
typedef void between_steps(void *state);

/* One block of at most 32 rows and 32 outputs, stored with `stride` floats from row to row, or added there. */
static inline __attribute__((always_inline)) void block_product(const bf16 *rows, int64_t row_stride,
                                                                int64_t num_rows, const bf16 *panel,
                                                                int64_t num_inputs, float *block, int64_t stride,
                                                                const int adds, between_steps *between,
                                                                void *state)
{
    const int64_t bytes = row_stride * (int64_t)sizeof(bf16);
    const int is_whole = num_rows > TILE;
    if (adds) {
        _tile_loadd(0, block, stride * 4);
        _tile_loadd(1, block + TILE, stride * 4);
        _tile_loadd(2, block + TILE * stride, stride * 4);
        _tile_loadd(3, block + TILE * stride + TILE, stride * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    if (!is_whole) {
        for (int64_t input = 0; input < num_inputs; input += STEP, panel += PANEL * STEP) {
            _tile_loadd(4, rows + input, bytes);
            _tile_loadd(6, panel, 64);
            _tile_loadd(7, panel + TILE * STEP, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            between(state);
        }
    } else {
        for (int64_t input = 0; input < num_inputs; input += STEP, panel += PANEL * STEP) {
            _tile_loadd(4, rows + input, bytes);
            _tile_loadd(6, panel, 64);
            _tile_loadd(7, panel + TILE * STEP, 64);
            _tile_loadd(5, rows + TILE * row_stride + input, bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            between(state);
        }
        _tile_stored(2, block + TILE * stride, stride * 4);
        _tile_stored(3, block + TILE * stride + TILE, stride * 4);
    }
    _tile_stored(0, block, stride * 4);
    _tile_stored(1, block + TILE, stride * 4);
}

/* A part of the next panel, fetched into the second level of the cache during one block's product. */
struct ahead {
    const char *at;
    int64_t lines_per_step;
};

static inline void fetch_step(struct ahead *ahead)
{
    for (int64_t line = 0; line < ahead->lines_per_step; line++, ahead->at += 64)
        _mm_prefetch(ahead->at, _MM_HINT_T1);
}

/* The part that falls to the block of `row`, so that all blocks together fetch the whole panel. */
static inline struct ahead next_panel(const bf16 *panel, int64_t num_inputs, int64_t row, int64_t num_rows)
{
    const int64_t blocks = (num_rows + 2 * TILE - 1) / (2 * TILE), number = row / (2 * TILE);
    const int64_t lines_per_step = (PANEL + blocks - 1) / blocks;
    const char *next = (const char *)(panel + PANEL * num_inputs);
    return (struct ahead){next + number * lines_per_step * (num_inputs / STEP) * 64, lines_per_step};
}

#endif
