/* BERT and MPNet over packed sequences: attention, add, norm; feed forward, add, norm.
 *
 * A few hundred rows at a time go through all layers, so that what lies between two products stays in
 * the cache, and no operator waits for another one's batch.
 */
#include "tiles.h"

struct norm {
    const float *weight, *bias;
};

/* Panels. qkv: for each group of heads its queries, keys and values; down: for each chunk of inputs all outputs. */
struct layer {
    const bf16 *qkv, *output, *up, *down;
    const float *qkv_bias, *output_bias, *up_bias, *down_bias;
    struct norm attention_norm, output_norm;
};

struct encoder {
    int64_t width, num_heads, inner, num_layers, heads_per_group, chunk;
    float scale, epsilon;
    const bf16 *words;       /* (vocabulary, width) */
    const float *positions;  /* (positions, width) */
    struct norm norm;
    const float *relative;   /* (heads, 2 * span - 1): the bias by key minus query, times log2 e; or null */
    int64_t span;
    const struct layer *layers;
};

/* What lies between products, for one block of rows: `part` holds queries, keys and values of a group of
 * heads, or a chunk of what is inside the feed forward, so that all of it stays in a core's own cache. */
struct room {
    bf16 *x, *mixed, *part;
    float *sums;
};

/* Where one pass over a row has left its sum and its sum of squares. */
struct moments {
    __m512 sum, squares;
};

static inline void add_moments(struct moments *moments, __m512 values)
{
    moments->sum = _mm512_add_ps(moments->sum, values);
    moments->squares = _mm512_fmadd_ps(values, values, moments->squares);
}

static inline void norm_row(const float *from, const struct moments *moments, const struct norm *norm,
                            float epsilon, int64_t width, bf16 *to)
{
    const float mean = _mm512_reduce_add_ps(moments->sum) / (float)width;
    const float variance = _mm512_reduce_add_ps(moments->squares) / (float)width - mean * mean;
    const __m128 root = _mm_sqrt_ss(_mm_set_ss((variance > 0.0f ? variance : variance * 0.0f) + epsilon));
    const __m512 factor = _mm512_set1_ps(1.0f / _mm_cvtss_f32(root)), middle = _mm512_set1_ps(mean);
    for (int64_t at = 0; at < width; at += 32) {
        __m512 out[2];
        for (int half = 0; half < 2; half++) {
            const int64_t here = at + 16 * half;
            const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(from + here), middle), factor);
            out[half] = _mm512_fmadd_ps(unit, _mm512_loadu_ps(norm->weight + here),
                                        _mm512_loadu_ps(norm->bias + here));
        }
        store_bf16_pair(to + at, out[0], out[1]);
    }
}

/* x = norm(sums + bias + x) */
static void add_and_norm(const struct encoder *model, const struct room *room, int64_t rows,
                         const float *bias, const struct norm *norm)
{
    const int64_t width = model->width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *sums = room->sums + row * width;
        bf16 *x = room->x + row * width;
        struct moments moments = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t at = 0; at < width; at += 16) {
            const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(sums + at), _mm512_loadu_ps(bias + at));
            const __m512 value = _mm512_add_ps(sum, load_bf16(x + at));
            _mm_prefetch((const char *)(sums + width + at), _MM_HINT_T0);
            _mm512_storeu_ps(sums + at, value);
            add_moments(&moments, value);
        }
        norm_row(sums, &moments, norm, model->epsilon, width, x);
    }
}

/* A block of sums on its way to becoming bfloat16, a few rows in each step of the next block's product. */
struct pending {
    const float *block;
    bf16 *to;
    __m512 first_bias, second_bias;
    int64_t stride, rows_left, rows_per_step;
    struct ahead ahead;
};

static inline __attribute__((always_inline)) void finish_rows(struct pending *pending, int64_t count,
                                                              const int has_gelu)
{
    if (count > pending->rows_left)
        count = pending->rows_left;
    pending->rows_left -= count;
    for (; count > 0; count--, pending->block += PANEL, pending->to += pending->stride) {
        __m512 first = _mm512_add_ps(_mm512_load_ps(pending->block), pending->first_bias);
        __m512 second = _mm512_add_ps(_mm512_load_ps(pending->block + 16), pending->second_bias);
        if (has_gelu) {
            first = gelu(first);
            second = gelu(second);
        }
        store_bf16_pair(pending->to, first, second);
    }
}

static inline void linear_step(void *state)
{
    struct pending *pending = state;
    fetch_step(&pending->ahead);
    finish_rows(pending, pending->rows_per_step, 0);
}

static inline void linear_gelu_step(void *state)
{
    struct pending *pending = state;
    fetch_step(&pending->ahead);
    finish_rows(pending, pending->rows_per_step, 1);
}

/* to = rows * weight + bias, as bfloat16, with GELU behind it if asked for */
static inline __attribute__((always_inline)) void linear(const bf16 *from, int64_t rows, int64_t inputs,
                                                         const bf16 *weight, const float *bias,
                                                         int64_t outputs, bf16 *to, const int has_gelu)
{
    float blocks[2][2 * TILE * PANEL] __attribute__((aligned(64)));
    const int64_t steps = inputs / STEP;
    struct pending pending = {.stride = outputs, .rows_per_step = (2 * TILE + steps - 1) / steps};
    int turn = 0;
#pragma omp for schedule(static) nowait
    for (int64_t output = 0; output < outputs; output += PANEL) {
        const bf16 *panel = weight + output * inputs;
        for (int64_t row = 0; row < rows; row += 2 * TILE, turn ^= 1) {
            float *block = blocks[turn];
            const int64_t count = rows - row < 2 * TILE ? rows - row : 2 * TILE;
            pending.ahead = next_panel(panel, inputs, row, rows);
            block_product(from + row * inputs, inputs, count, panel, inputs, block, PANEL, 0,
                          has_gelu ? linear_gelu_step : linear_step, &pending);
            finish_rows(&pending, pending.rows_left, has_gelu);
            pending.block = block;
            pending.to = to + row * outputs + output;
            pending.first_bias = _mm512_loadu_ps(bias + output);
            pending.second_bias = _mm512_loadu_ps(bias + output + 16);
            pending.rows_left = count;
        }
    }
    finish_rows(&pending, pending.rows_left, has_gelu);
#pragma omp barrier
}

static inline void product_step(void *state)
{
    fetch_step(state);
}

/* sums = rows * weight, or more by that, as float32; up to 31 rows behind the last are written as well */
static inline __attribute__((always_inline)) void product(const bf16 *from, int64_t rows, int64_t inputs,
                                                          const bf16 *weight, int64_t outputs, float *sums,
                                                          const int adds)
{
#pragma omp for schedule(static)
    for (int64_t output = 0; output < outputs; output += PANEL) {
        const bf16 *panel = weight + output * inputs;
        for (int64_t row = 0; row < rows; row += 2 * TILE) {
            struct ahead ahead = next_panel(panel, inputs, row, rows);
            block_product(from + row * inputs, inputs, rows - row, panel, inputs, sums + row * outputs + output,
                          outputs, adds, product_step, &ahead);
        }
    }
}

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

static inline int64_t round_up(int64_t number, int64_t step)
{
    return (number + step - 1) / step * step;
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

/* Attention of the heads of one group, whose queries, keys and values lie side by side in room->part. */
static void attention(const struct encoder *model, const struct room *room, int64_t first_head,
                      const int64_t *lengths, int64_t num_sequences)
{
    const int64_t size = model->width / model->num_heads, group_width = model->heads_per_group * size;
#pragma omp for schedule(static)
    for (int64_t own = 0; own < model->heads_per_group; own++) {
        struct head head;
        const int64_t number = first_head + own;
        struct view view = {.stride = 3 * group_width, .width = model->width, .size = size};
        view.query = room->part + own * size;
        view.to = room->mixed + number * size;
        view.scale = _mm512_set1_ps(model->scale);
        view.relative = model->relative ? model->relative + number * (2 * model->span - 1) + model->span - 1 : 0;
        for (int64_t sequence = 0; sequence < num_sequences; sequence++) {
            view.key = view.query + group_width;
            view.value = view.key + group_width;
            view.length = lengths[sequence];
            view.places = round_up(view.length, 32);
            /* No power of two: 16 rows of a tile must not fall into the same few lines of the cache. */
            view.score_stride = view.places + 16;
            view.share_stride = view.places + 32;
            attend(&view, &head);
            view.query += view.length * view.stride;
            view.to += view.length * view.width;
        }
    }
}

static void embed(const struct encoder *model, const struct room *room, const int64_t *ids,
                  const int64_t *positions, int64_t rows)
{
    const int64_t width = model->width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *word = model->words + ids[row] * width;
        const float *position = model->positions + positions[row] * width;
        float *sums = room->sums + row * width;
        struct moments moments = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t at = 0; at < width; at += 16) {
            const __m512 value = _mm512_add_ps(load_bf16(word + at), _mm512_loadu_ps(position + at));
            _mm512_storeu_ps(sums + at, value);
            add_moments(&moments, value);
        }
        norm_row(sums, &moments, &model->norm, model->epsilon, width, room->x + row * width);
    }
}

/* One block of whole sequences, by every thread of a team together. */
static void encode_block(const struct encoder *model, const struct room *room, const int64_t *ids,
                         const int64_t *positions, const int64_t *lengths, int64_t num_sequences, int64_t rows,
                         bf16 *out)
{
    const int64_t width = model->width, chunk = model->chunk;
    const int64_t group_width = model->heads_per_group * (width / model->num_heads);
    configure_tiles();
    embed(model, room, ids, positions, rows);
    for (int64_t number = 0; number < model->num_layers; number++) {
        const struct layer *layer = model->layers + number;
        for (int64_t at = 0; at < width; at += group_width) {
            linear(room->x, rows, width, layer->qkv + 3 * at * width, layer->qkv_bias + 3 * at, 3 * group_width,
                   room->part, 0);
            attention(model, room, at / group_width * model->heads_per_group, lengths, num_sequences);
        }
        product(room->mixed, rows, width, layer->output, width, room->sums, 0);
        add_and_norm(model, room, rows, layer->output_bias, &layer->attention_norm);
        for (int64_t at = 0; at < model->inner; at += chunk) {
            linear(room->x, rows, width, layer->up + at * width, layer->up_bias + at, chunk, room->part, 1);
            if (at)
                product(room->part, rows, chunk, layer->down + at * width, width, room->sums, 1);
            else
                product(room->part, rows, chunk, layer->down, width, room->sums, 0);
        }
        add_and_norm(model, room, rows, layer->down_bias, &layer->output_norm);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        memcpy(out + row * width, room->x + row * width, (size_t)width * sizeof(bf16));
    _tile_release();
}

static int64_t part_width(const struct encoder *model)
{
    const int64_t group = 3 * model->heads_per_group * (model->width / model->num_heads);
    return group > model->chunk ? group : model->chunk;
}

/* Bytes that `encode` needs for blocks of `rows` rows. */
int64_t encoder_room(const struct encoder *model, int64_t rows)
{
    const int64_t all = round_up(rows, 32) + SPARE_ROWS;
    return all * (2 * model->width + part_width(model)) * (int64_t)sizeof(bf16) +
           all * model->width * (int64_t)sizeof(float) + 64;
}

/* Encode packed sequences.
 *
 * ids, positions: of each token; lengths: of each sequence, none above MOST_KEYS; block_rows: rows that go
 * through the layers together, unless one sequence alone has more; room: see encoder_room, for the larger of
 * block_rows and the longest sequence; out: (tokens, width).
 */
void encode(const struct encoder *model, const int64_t *ids, const int64_t *positions, const int64_t *lengths,
            int64_t num_sequences, int64_t block_rows, int64_t room_rows, char *bytes, bf16 *out, int threads)
{
    const int64_t all = round_up(room_rows, 32) + SPARE_ROWS, width = model->width;
    struct room room;
    room.sums = (float *)(((uintptr_t)bytes + 63) & ~(uintptr_t)63);
    room.x = (bf16 *)(room.sums + all * width);
    room.mixed = room.x + all * width;
    room.part = room.mixed + all * width;
    for (int64_t first = 0; first < num_sequences;) {
        int64_t rows = lengths[first], last = first + 1;
        while (last < num_sequences && rows + lengths[last] <= block_rows)
            rows += lengths[last++];
#pragma omp parallel num_threads(threads) if (threads > 1)
        encode_block(model, &room, ids, positions, lengths + first, last - first, rows, out);
        ids += rows;
        positions += rows;
        out += rows * width;
        first = last;
    }
}

/* The mean of each sequence's rows: x (tokens, width), out (sequences, width). */
void segment_means(const bf16 *x, const int64_t *lengths, int64_t num_sequences, int64_t width, float *out)
{
    for (int64_t sequence = 0; sequence < num_sequences; sequence++, out += width) {
        const __m512 share = _mm512_set1_ps(1.0f / (float)lengths[sequence]);
        for (int64_t at = 0; at < width; at += 16) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t row = 0; row < lengths[sequence]; row++)
                sum = _mm512_add_ps(sum, load_bf16(x + row * width + at));
            _mm512_storeu_ps(out + at, _mm512_mul_ps(sum, share));
        }
        x += lengths[sequence] * width;
    }
}
