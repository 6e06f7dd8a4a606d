/* BERT and MPNet over packed sequences: attention, add, norm; feed forward, add, norm.
 *
 * A few hundred rows at a time go through all layers, so that what lies between two products stays in
 * the cache, and no operator waits for another one's batch.
 */
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
            product(room->part, rows, chunk, layer->down + at * width, width, room->sums, at > 0);
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
