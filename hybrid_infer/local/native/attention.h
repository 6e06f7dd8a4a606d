/* Attention within one sequence, bidirectional, by one head: scores and mixing on tiles, softmax in registers. */
#ifndef HYBRID_INFER_ATTENTION_H
#define HYBRID_INFER_ATTENTION_H

#include "tiles.h"

enum { MOST_KEYS = 1024, MOST_SIZE = 64 };

/* Keys and values of one head, as tiles, and what 16 queries make of them. */
struct head {
    bf16 keys[MOST_KEYS * MOST_SIZE] __attribute__((aligned(64)));
    bf16 values[MOST_KEYS * MOST_SIZE] __attribute__((aligned(64)));
    float scores[TILE * (MOST_KEYS + 16)] __attribute__((aligned(64)));
    bf16 shares[TILE * (MOST_KEYS + 32)] __attribute__((aligned(64)));
};

/* A 16 x 16 transpose of pairs: rows of 32 bfloat16 become the columns of a tile. */
static void transpose_pairs(const bf16 *from, int64_t stride, int64_t num_rows, bf16 *to)
{
    __m512i a[16], b[16];
    for (int row = 0; row < 16; row++)
        a[row] = row < num_rows ? _mm512_loadu_si512(from + row * stride) : _mm512_setzero_si512();
    for (int row = 0; row < 16; row += 2) {
        b[row] = _mm512_unpacklo_epi32(a[row], a[row + 1]);
        b[row + 1] = _mm512_unpackhi_epi32(a[row], a[row + 1]);
    }
    for (int row = 0; row < 16; row += 4) {
        a[row] = _mm512_unpacklo_epi64(b[row], b[row + 2]);
        a[row + 1] = _mm512_unpackhi_epi64(b[row], b[row + 2]);
        a[row + 2] = _mm512_unpacklo_epi64(b[row + 1], b[row + 3]);
        a[row + 3] = _mm512_unpackhi_epi64(b[row + 1], b[row + 3]);
    }
    for (int column = 0; column < 4; column++) {
        const __m512i low = _mm512_shuffle_i32x4(a[column], a[column + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(a[column], a[column + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(a[column + 8], a[column + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(a[column + 8], a[column + 12], 0xdd);
        _mm512_store_si512(to + 32 * column, _mm512_shuffle_i32x4(low, low2, 0x88));
        _mm512_store_si512(to + 32 * (column + 4), _mm512_shuffle_i32x4(high, high2, 0x88));
        _mm512_store_si512(to + 32 * (column + 8), _mm512_shuffle_i32x4(low, low2, 0xdd));
        _mm512_store_si512(to + 32 * (column + 12), _mm512_shuffle_i32x4(high, high2, 0xdd));
    }
}

/* Pairs of neighbouring rows, interleaved: 32 rows of 32 values become two tiles, 16 values wide each. */
static void interleave_pairs(const bf16 *from, int64_t stride, int64_t num_rows, bf16 *to, int64_t apart)
{
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                         38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t row = 0; row < 32; row += 2) {
        /* Rows behind the sequence are another one's: a NaN there must not meet a share of zero. */
        const __m512i first = row < num_rows ? _mm512_loadu_si512(from + row * stride) : _mm512_setzero_si512();
        const __m512i second =
            row + 1 < num_rows ? _mm512_loadu_si512(from + (row + 1) * stride) : _mm512_setzero_si512();
        _mm512_store_si512(to + 16 * row, _mm512_permutex2var_epi16(first, low, second));
        _mm512_store_si512(to + apart + 16 * row, _mm512_permutex2var_epi16(first, high, second));
    }
}

/* One row of scores becomes shares that are not divided by their sum yet; gives one over the sum. */
static inline float softmax_row(float *scores, bf16 *shares, int64_t length, __m512 scale, const float *bias)
{
    const __m512 nothing = _mm512_set1_ps(-1e30f); /* whose power is 0, whatever else is in the row */
    const int64_t whole = length & ~(int64_t)15, places = round_up(length, 32);
    const __mmask16 is_key = (__mmask16)((1u << (length - whole)) - 1);
    __m512 top = nothing, sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    if (bias) { /* scores and bias are put together, and nothing is left to scale */
        for (int64_t at = 0; at < length; at += 16) {
            const __m512 own = _mm512_maskz_loadu_ps(at < whole ? 0xffff : is_key, bias + at);
            _mm512_storeu_ps(scores + at, _mm512_fmadd_ps(_mm512_loadu_ps(scores + at), scale, own));
        }
        scale = _mm512_set1_ps(1.0f);
    }
    for (int64_t at = whole; at < places; at += 16)
        _mm512_storeu_ps(scores + at, _mm512_mask_loadu_ps(nothing, at == whole ? is_key : 0, scores + at));
    for (int64_t at = 0; at < places; at += 16)
        top = _mm512_max_ps(top, _mm512_loadu_ps(scores + at));
    const __m512 highest = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(top)), scale);
    for (int64_t at = 0; at < places; at += 32) {
        __m512 pair[2];
        for (int half = 0; half < 2; half++) {
            pair[half] = exp2_of(_mm512_fmsub_ps(_mm512_loadu_ps(scores + at + 16 * half), scale, highest));
            sums[half] = _mm512_add_ps(sums[half], pair[half]);
        }
        store_bf16_pair(shares + at, pair[0], pair[1]);
    }
    return 1.0f / _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
}

/* Where one head of one sequence is.
 *
 * query, key, value: of its first token, `stride` from token to token; to: where its output goes, `width` from
 * token to token; relative: its bias by key minus query, at distance 0, or null.
 */
struct view {
    const bf16 *query, *key, *value;
    bf16 *to;
    const float *relative;
    int64_t stride, width, size, length, places, score_stride, share_stride;
    __m512 scale;
};

/* Keys and values become tiles. */
static void gather(const struct view *view, struct head *head)
{
    const int64_t length = view->length, size = view->size, stride = view->stride;
    for (int64_t at = 0; at < length; at += TILE)
        for (int64_t part = 0; part < size; part += STEP)
            transpose_pairs(view->key + at * stride + part, stride, length - at,
                            head->keys + at * size + part * TILE);
    for (int64_t at = 0; at < length; at += STEP)
        for (int64_t part = 0; part < size; part += 32)
            interleave_pairs(view->value + at * stride + part, stride, length - at,
                             head->values + part * view->places + at * 16, 16 * view->places);
}

/* The scores of 16 queries from `first` on. */
static void score(const struct view *view, int64_t first, struct head *head)
{
    const bf16 *query = view->query + first * view->stride;
    const int is_wide = view->size > STEP;
    _tile_loadd(4, query, view->stride * 2);
    if (is_wide)
        _tile_loadd(5, query + STEP, view->stride * 2);
    for (int64_t at = 0; at < view->length; at += TILE) {
        const bf16 *keys = head->keys + at * view->size;
        _tile_zero(0);
        _tile_loadd(6, keys, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (is_wide) {
            _tile_loadd(7, keys + STEP * TILE, 64);
            _tile_dpbf16ps(0, 5, 7);
        }
        _tile_stored(0, head->scores + at, view->score_stride * 4);
    }
}

/* Scores become shares; one over each sum goes to `factors`. */
static void share(const struct view *view, int64_t first, int64_t count, struct head *head, float *factors)
{
    for (int64_t row = 0; row < count; row++)
        factors[row] = softmax_row(head->scores + row * view->score_stride, head->shares + row * view->share_stride,
                                   view->length, view->scale,
                                   view->relative ? view->relative - (first + row) : 0);
}

/* The values of 16 queries, mixed. */
static void mix(const struct view *view, int64_t first, int64_t count, const struct head *head,
                const float *factors)
{
    float block[TILE * MOST_SIZE] __attribute__((aligned(64)));
    const int64_t size = view->size, places = view->places;
    const int is_wide = size > 32;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t at = 0; at < view->length; at += STEP) {
        const bf16 *values = head->values + at * 16;
        _tile_loadd(4, head->shares + at, view->share_stride * 2);
        _tile_loadd(6, values, 64);
        _tile_loadd(7, values + 16 * places, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (is_wide) {
            _tile_loadd(5, values + 32 * places, 64);
            _tile_loadd(6, values + 48 * places, 64);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 6);
        }
    }
    _tile_stored(0, block, size * 4);
    _tile_stored(1, block + 16, size * 4);
    if (is_wide) {
        _tile_stored(2, block + 32, size * 4);
        _tile_stored(3, block + 48, size * 4);
    }
    for (int64_t row = 0; row < count; row++) {
        const __m512 factor = _mm512_set1_ps(factors[row]);
        for (int64_t at = 0; at < size; at += 32)
            store_bf16_pair(view->to + (first + row) * view->width + at,
                            _mm512_mul_ps(_mm512_load_ps(block + row * size + at), factor),
                            _mm512_mul_ps(_mm512_load_ps(block + row * size + at + 16), factor));
    }
}

static void attend(const struct view *view, struct head *head)
{
    float factors[TILE];
    gather(view, head);
    score(view, 0, head);
    for (int64_t first = 0; first < view->length; first += TILE) {
        const int64_t count = view->length - first < TILE ? view->length - first : TILE;
        share(view, first, count, head, factors);
        /* The next scores come before the mixing: a tile cannot be loaded before its stores have arrived. */
        if (first + TILE < view->length)
            score(view, first + TILE, head);
        mix(view, first, count, head, factors);
    }
}

#endif
