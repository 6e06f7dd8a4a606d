/* BERT and MPNet over packed sequences: attention, add, norm; feed forward, add, norm.
 *
 * A few hundred rows at a time go through all layers, so that what lies between two products stays in
 * the cache, and no operator waits for another one's batch.
 */
#include <omp.h>

#include "attention.h"

struct norm {
    const float *weight, *bias;
};

/* Panels. qkv: for each group of heads its queries, keys and values; down: for each chunk of inputs all outputs. */
struct layer {
    const bf16 *qkv, *output, *up, *down;
    const float *qkv_bias, *output_bias, *up_bias, *down_bias;
    struct norm attention_norm, output_norm;
};

/* padding: the id of a token that does not advance the position; the first position is behind it. Or -1. */
struct encoder {
    int64_t width, num_heads, inner, num_layers, heads_per_group, chunk;
    int64_t num_words, num_positions, padding;
    float scale, epsilon;
    const bf16 *words;       /* (vocabulary, width) */
    const float *positions;  /* (positions, width) */
    struct norm norm;
    const float *relative;   /* (heads, 2 * span - 1): the bias by key minus query, times log2 e; or null */
    int64_t span;
    const struct layer *layers;
};

/* What lies between products, for one block of rows: `part` holds queries, keys and values of a group of
 * heads, or a chunk of what is inside the feed forward, so that all of it stays in a core's own cache.
 * heads: one for each thread; a caller's stack may be small. */
struct room {
    struct head *heads;
    bf16 *x, *mixed, *part;
    float *sums;
    int64_t *positions;
};

/* What becomes of the last layer's rows: they themselves, or their means by sequence, or those made one long. */
enum outcome { ROWS, MEANS, UNIT_MEANS };

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

/* Inputs of a panel that are multiplied with all rows before the next ones: they stay in the first level of the
 * cache. */
enum { DEPTH = 384 };

/* to = rows * weight + bias, as bfloat16, with GELU behind it if asked for */
static inline __attribute__((always_inline)) void linear(const bf16 *from, int64_t rows, int64_t inputs,
                                                         const bf16 *weight, const float *bias,
                                                         int64_t outputs, bf16 *to, const int has_gelu)
{
    const int64_t blocks = (rows + 2 * TILE - 1) / (2 * TILE);
    float sums[(inputs > DEPTH && blocks > 2 ? blocks : 2) * 2 * TILE * PANEL] __attribute__((aligned(64)));
    struct pending pending = {.stride = outputs};
#pragma omp for schedule(static) nowait
    for (int64_t output = 0; output < outputs; output += PANEL) {
        const bf16 *panel = weight + output * inputs;
        for (int64_t input = 0; input < inputs; input += DEPTH) {
            const int64_t depth = inputs - input < DEPTH ? inputs - input : DEPTH, steps = depth / STEP;
            pending.rows_per_step = (2 * TILE + steps - 1) / steps;
            for (int64_t number = 0; number < blocks; number++) {
                const int64_t row = number * 2 * TILE, count = rows - row < 2 * TILE ? rows - row : 2 * TILE;
                float *block = sums + (inputs > DEPTH ? number : number & 1) * 2 * TILE * PANEL;
                pending.ahead =
                    fetch_next(panel, inputs, input / DEPTH * blocks + number, rows, steps);
                if (input)
                    block_product(from + row * inputs + input, inputs, count, panel + PANEL * input, depth, block,
                                  PANEL, 1, has_gelu ? linear_gelu_step : linear_step, &pending);
                else
                    block_product(from + row * inputs, inputs, count, panel, depth, block, PANEL, 0,
                                  has_gelu ? linear_gelu_step : linear_step, &pending);
                finish_rows(&pending, pending.rows_left, has_gelu);
                if (input + DEPTH >= inputs) {
                    pending.block = block;
                    pending.to = to + row * outputs + output;
                    pending.first_bias = _mm512_loadu_ps(bias + output);
                    pending.second_bias = _mm512_loadu_ps(bias + output + 16);
                    pending.rows_left = count;
                }
            }
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
static void product(const bf16 *from, int64_t rows, int64_t inputs, const bf16 *weight, int64_t outputs,
                    float *sums, int adds)
{
    const int64_t blocks = (rows + 2 * TILE - 1) / (2 * TILE);
#pragma omp for schedule(static)
    for (int64_t output = 0; output < outputs; output += PANEL) {
        const bf16 *panel = weight + output * inputs;
        for (int64_t input = 0; input < inputs; input += DEPTH) {
            const int64_t depth = inputs - input < DEPTH ? inputs - input : DEPTH, steps = depth / STEP;
            for (int64_t number = 0; number < blocks; number++) {
                const int64_t row = number * 2 * TILE;
                const bf16 *own = from + row * inputs + input;
                float *to = sums + row * outputs + output;
                struct ahead ahead = fetch_next(panel, inputs, input / DEPTH * blocks + number, rows, steps);
                if (adds || input)
                    block_product(own, inputs, rows - row, panel + PANEL * input, depth, to, outputs, 1,
                                  product_step, &ahead);
                else
                    block_product(own, inputs, rows - row, panel, depth, to, outputs, 0, product_step, &ahead);
            }
        }
    }
}

/* Attention of the heads of one group, whose queries, keys and values lie side by side in room->part. */
static void attention(const struct encoder *model, const struct room *room, int64_t first_head,
                      const int64_t *lengths, int64_t num_sequences)
{
    const int64_t size = model->width / model->num_heads, group_width = model->heads_per_group * size;
#pragma omp for schedule(static)
    for (int64_t own = 0; own < model->heads_per_group; own++) {
        struct head *head = room->heads + omp_get_thread_num();
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
            attend(&view, head);
            view.query += view.length * view.stride;
            view.to += view.length * view.width;
        }
    }
}

/* The positions of one sequence; 0 if a token or a position is in no table. */
static int find_positions(const struct encoder *model, const int32_t *ids, int64_t length, int64_t *positions)
{
    int64_t last = model->padding;
    for (int64_t at = 0; at < length; at++) {
        if (ids[at] < 0 || ids[at] >= model->num_words)
            return 0;
        positions[at] = ids[at] == model->padding ? model->padding : ++last;
        if (positions[at] >= model->num_positions)
            return 0;
    }
    return 1;
}

static void embed(const struct encoder *model, const struct room *room, const int32_t *ids, int64_t rows)
{
    const int64_t width = model->width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *word = model->words + ids[row] * width;
        const float *position = model->positions + room->positions[row] * width;
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

/* The mean of rows: x (length, width). */
static void mean_row(const bf16 *x, int64_t length, int64_t width, float *out)
{
    const __m512 share = _mm512_set1_ps(1.0f / (float)length);
    for (int64_t at = 0; at < width; at += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t row = 0; row < length; row++)
            sum = _mm512_add_ps(sum, load_bf16(x + row * width + at));
        _mm512_storeu_ps(out + at, _mm512_mul_ps(sum, share));
    }
}

static int is_finite(const float *row, int64_t width)
{
    __m512 zeros = _mm512_setzero_ps(); /* and NaN where a value is not finite */
    for (int64_t at = 0; at < width; at += 16)
        zeros = _mm512_fmadd_ps(_mm512_loadu_ps(row + at), _mm512_setzero_ps(), zeros);
    return _mm512_reduce_add_ps(zeros) == 0.0f;
}

static void make_unit(float *row, int64_t width)
{
    __m512 squares = _mm512_setzero_ps();
    for (int64_t at = 0; at < width; at += 16)
        squares = _mm512_fmadd_ps(_mm512_loadu_ps(row + at), _mm512_loadu_ps(row + at), squares);
    const float length = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(_mm512_reduce_add_ps(squares))));
    const __m512 divisor = _mm512_set1_ps(length < 1e-12f ? 1e-12f : length); /* as torch's normalize; a NaN stays */
    for (int64_t at = 0; at < width; at += 16)
        _mm512_storeu_ps(row + at, _mm512_div_ps(_mm512_loadu_ps(row + at), divisor));
}

/* The rows of a block become what was asked for; each thread of a team takes every so many sequences. Whether
 * all that it made is finite, which of rows is not asked. */
static int give(const struct encoder *model, const struct room *room, const int64_t *lengths,
                 int64_t num_sequences, int outcome, char *out)
{
    const int64_t width = model->width, own = omp_get_thread_num(), team = omp_get_num_threads();
    const bf16 *x = room->x;
    int all_finite = 1;
    for (int64_t number = 0; number < num_sequences; x += lengths[number++] * width) {
        if (number % team != own)
            continue;
        if (outcome == ROWS) {
            const int64_t first = x - room->x;
            memcpy((bf16 *)out + first, x, (size_t)(lengths[number] * width) * sizeof(bf16));
            continue;
        }
        float *row = (float *)out + number * width;
        mean_row(x, lengths[number], width, row);
        if (outcome == UNIT_MEANS)
            make_unit(row, width);
        all_finite &= is_finite(row, width);
    }
    return all_finite;
}

/* One block of whole sequences, by every thread of a team together; see `give`. */
static int encode_block(const struct encoder *model, const struct room *room, const int32_t *ids,
                         const int64_t *lengths, int64_t num_sequences, int64_t rows, int outcome, char *out)
{
    const int64_t width = model->width, chunk = model->chunk;
    const int64_t group_width = model->heads_per_group * (width / model->num_heads);
    configure_tiles();
    embed(model, room, ids, rows);
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
            product(room->part, rows, chunk, layer->down + at * width, width, room->sums, at > 0);
        }
        add_and_norm(model, room, rows, layer->down_bias, &layer->output_norm);
    }
    _tile_release();
    return give(model, room, lengths, num_sequences, outcome, out);
}

static int64_t part_width(const struct encoder *model)
{
    const int64_t group = 3 * model->heads_per_group * (model->width / model->num_heads);
    return group > model->chunk ? group : model->chunk;
}

/* Bytes that `encode` needs for blocks of `rows` rows. */
int64_t encoder_room(const struct encoder *model, int64_t rows, int64_t threads)
{
    const int64_t all = round_up(rows, 32) + SPARE_ROWS;
    return threads * (int64_t)sizeof(struct head) +
           all * (2 * model->width + part_width(model)) * (int64_t)sizeof(bf16) +
           all * model->width * (int64_t)sizeof(float) + all * (int64_t)sizeof(int64_t) + 64;
}

static struct room divide_room(const struct encoder *model, int64_t rows, int64_t threads, char *bytes)
{
    const int64_t all = round_up(rows, 32) + SPARE_ROWS, width = model->width;
    struct room room;
    room.heads = (struct head *)(((uintptr_t)bytes + 63) & ~(uintptr_t)63);
    room.sums = (float *)(room.heads + threads);
    room.x = (bf16 *)(room.sums + all * width);
    room.mixed = room.x + all * width;
    room.part = room.mixed + all * width;
    room.positions = (int64_t *)(room.part + all * part_width(model));
    return room;
}

/* What `encode` says: a token or its position is in no table, or a sequence too long; a mean is not finite. */
enum { DONE, NOT_IN_TABLES, NOT_FINITE };

/* Encode packed sequences.
 *
 * ids: of each token; lengths: of each sequence; block_rows: rows that go through the layers together, unless
 * one sequence alone has more; bytes: see encoder_room, for room_rows, the larger of block_rows and the longest
 * sequence, and at least as many threads; out: bfloat16 (tokens, width), or float32 (sequences, width).
 */
int encode(const struct encoder *model, const int32_t *ids, const int64_t *lengths, int64_t num_sequences,
           int64_t block_rows, int64_t room_rows, int64_t room_threads, char *bytes, int outcome, char *out,
           int threads)
{
    const int64_t row_bytes = model->width * (int64_t)(outcome == ROWS ? sizeof(bf16) : sizeof(float));
    const struct room room = divide_room(model, room_rows, room_threads, bytes);
    int all_finite = 1;
    for (int64_t first = 0; first < num_sequences;) {
        int64_t rows = 0, last = first;
        while (last < num_sequences && (last == first || rows + lengths[last] <= block_rows)) {
            if (lengths[last] > model->span || !find_positions(model, ids + rows, lengths[last], room.positions + rows))
                return NOT_IN_TABLES;
            rows += lengths[last++];
        }
        if (threads > 1) {
#pragma omp parallel num_threads(threads) reduction(& : all_finite)
            all_finite &= encode_block(model, &room, ids, lengths + first, last - first, rows, outcome, out);
        } else { /* no thread but the caller's, and nothing that could wait */
            all_finite &= encode_block(model, &room, ids, lengths + first, last - first, rows, outcome, out);
        }
        ids += rows;
        out += (outcome == ROWS ? rows : last - first) * row_bytes;
        first = last;
    }
    return all_finite ? DONE : NOT_FINITE;
}

/* The mean of each sequence's rows: x (tokens, width), out (sequences, width). */
void segment_means(const bf16 *x, const int64_t *lengths, int64_t num_sequences, int64_t width, float *out)
{
    for (int64_t sequence = 0; sequence < num_sequences; sequence++, out += width) {
        mean_row(x, lengths[sequence], width, out);
        x += lengths[sequence] * width;
    }
}
