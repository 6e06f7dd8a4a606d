/* Llama and Phi-3: some tokens of some answers go through all layers in one call.
 *
 * Weights are read once for up to 32 tokens, which is what a step costs. Sums, norms and the residual are
 * float32; what enters a product is bfloat16.
 *
 * Keys and values of an answer lie in pages of 64 positions, which need not be neighbours. A page holds,
 * for each layer and each key head, the keys and then the values, both in pairs for vdpbf16ps:
 *     keys   [position / 16][dimension / 2][16 positions][2 dimensions]
 *     values [position / 2][dimension][2 positions]
 */
#define _GNU_SOURCE
#include <math.h>
#include <sys/mman.h>

#include "team.h"
#include "tiles.h"

enum { PAGE = 64, KEY_BLOCK = 16, MAX_TOKENS = 256, MAX_HEAD_DIM = 256 };
enum { HEADS = 4, ROW_GAP = 32 };

#define LOWEST (-1e30f)

struct decoder_layer {
    const float *input_norm, *output_norm;
    const bf16 *qkv, *output, *gate_up, *down; /* panels; a panel of gate_up is 16 gates and their 16 ups */
};

struct decoder_model {
    int64_t width, inner, num_heads, num_kv_heads, head_dim, num_layers, vocabulary;
    float epsilon;
    const struct decoder_layer *layers;
    const float *norm;
    const bf16 *words;            /* (vocabulary, width), or NULL where the head's panels serve */
    const bf16 *head;             /* panels of the vocabulary, padded */
    const float *cosines, *sines; /* (positions, head_dim / 2) */
};

/* What a call is about. */
struct decoder_call {
    int64_t num_tokens;
    const int32_t *tokens, *positions;
    bf16 *const *const *pages; /* of each token's answer */
    int64_t num_outputs;
    const int32_t *outputs; /* tokens whose logits are wanted */
    float *logits;          /* (num_outputs, vocabulary) */
};

enum kind { EMBED, INPUT_NORM, QKV, ROTATE, ATTEND, OUTPUT, OUTPUT_NORM, GATE_UP, DOWN, LAST_NORM, HEAD };
enum { LAYER_KINDS = DOWN - INPUT_NORM + 1 };

struct decoder {
    struct decoder_model model;
    struct decoder_call call;
    struct team *team;
    int32_t *num_parts;
    int64_t normed_stride, mixed_stride, inner_stride, qkv_width;
    float *x, *qkv;                        /* (tokens, width), (tokens, qkv_width) */
    bf16 *query, *normed, *mixed, *inner; /* rows of products are a few elements apart from powers of two */
};

/* Rows of a product: a block of one row costs less with tiles of one row. */
static void configure_rows(int64_t rows)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_per_row[16];
        uint8_t rows[16];
    } __attribute__((packed)) config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    const uint8_t first = (uint8_t)(rows < TILE ? rows : TILE), second = (uint8_t)(rows > TILE ? rows - TILE : 1);
    const uint8_t tile_rows[8] = {first, first, second, second, first, second, TILE, TILE};
    for (int tile = 0; tile < 8; tile++) {
        config.bytes_per_row[tile] = 64;
        config.rows[tile] = tile_rows[tile];
    }
    _tile_loadconfig(&config);
}

enum { FETCH_AHEAD = 2048 };

static inline void fetch(void *state)
{
    const char **at = state;
    for (int64_t line = 0; line < 2 * TILE; line++, *at += 64)
        _mm_prefetch(*at, _MM_HINT_T0);
}

static inline void fetch_nothing(void *state)
{
    (void)state;
}

/* One panel for up to 32 rows, into (rows, 32) floats. The first block brings the panel from memory. */
static void panel_product(const bf16 *rows, int64_t stride, int64_t num_rows, const bf16 *panel, int64_t inputs,
                          float *block, int is_first)
{
    configure_rows(num_rows);
    if (is_first) {
        const char *at = (const char *)panel + FETCH_AHEAD;
        block_product(rows, stride, num_rows, panel, inputs, block, PANEL, 0, fetch, &at);
    } else {
        block_product(rows, stride, num_rows, panel, inputs, block, PANEL, 0, fetch_nothing, NULL);
    }
}

static inline __m512 exp_of(__m512 x)
{
    return exp2_of(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
}

static void embed(struct decoder *self, int64_t number)
{
    const struct decoder_model *model = &self->model;
    const int64_t token = self->call.tokens[number];
    float *x = self->x + number * model->width;
    if (model->words) {
        for (int64_t at = 0; at < model->width; at += 16)
            _mm512_storeu_ps(x + at, load_bf16(model->words + token * model->width + at));
        return;
    }
    const bf16 *panel = model->head + token / PANEL * PANEL * model->width;
    panel += token % PANEL / TILE * TILE * STEP + token % TILE * 2;
    for (int64_t at = 0; at < model->width; at += 2) {
        const bf16 *pair = panel + at / STEP * PANEL * STEP + at % STEP / 2 * STEP;
        for (int64_t side = 0; side < 2; side++) {
            const uint32_t bits = (uint32_t)pair[side] << 16;
            memcpy(x + at + side, &bits, 4);
        }
    }
}

/* Root mean square norm (Zhang & Sennrich 2019). */
static void norm_token(struct decoder *self, const float *weight, int64_t from, int64_t to)
{
    const int64_t width = self->model.width;
    const float *x = self->x + from * width;
    bf16 *out = self->normed + to * self->normed_stride;
    __m512 squares = _mm512_setzero_ps();
    for (int64_t at = 0; at < width; at += 16) {
        const __m512 value = _mm512_loadu_ps(x + at);
        squares = _mm512_fmadd_ps(value, value, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / (float)width + self->model.epsilon;
    const __m512 factor = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_set1_ps(mean)));
    for (int64_t at = 0; at < width; at += 16) {
        const __m512 unit = _mm512_mul_ps(_mm512_loadu_ps(x + at), factor);
        store_bf16(out + at, _mm512_mul_ps(unit, _mm512_loadu_ps(weight + at)));
    }
}


typedef void finish_row(struct decoder *self, int64_t row, int64_t part, const float *sums);

/* One panel times all rows; `finish` takes each row's 32 sums. */
static inline __attribute__((always_inline)) void product_part(struct decoder *self, const bf16 *rows, int64_t stride,
                                                               int64_t num_rows, const bf16 *weight, int64_t inputs,
                                                               int64_t part, finish_row *finish)
{
    _Alignas(64) float block[2 * TILE * PANEL];
    const bf16 *panel = weight + part * PANEL * inputs;
    for (int64_t first = 0; first < num_rows; first += 2 * TILE) {
        const int64_t count = num_rows - first < 2 * TILE ? num_rows - first : 2 * TILE;
        panel_product(rows + first * stride, stride, count, panel, inputs, block, first == 0);
        for (int64_t row = 0; row < count; row++)
            finish(self, first + row, part, block + row * PANEL);
    }
}

static void finish_qkv(struct decoder *self, int64_t row, int64_t part, const float *sums)
{
    memcpy(self->qkv + row * self->qkv_width + part * PANEL, sums, PANEL * sizeof(float));
}

static void finish_residual(struct decoder *self, int64_t row, int64_t part, const float *sums)
{
    float *x = self->x + row * self->model.width + part * PANEL;
    for (int half = 0; half < PANEL; half += 16)
        _mm512_storeu_ps(x + half, _mm512_add_ps(_mm512_loadu_ps(x + half), _mm512_load_ps(sums + half)));
}

/* silu(gate) * up */
static void finish_gate_up(struct decoder *self, int64_t row, int64_t part, const float *sums)
{
    const __m512 gate = _mm512_load_ps(sums), up = _mm512_load_ps(sums + 16);
    const __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exp_of(_mm512_sub_ps(_mm512_setzero_ps(), gate)));
    store_bf16(self->inner + row * self->inner_stride + part * 16, _mm512_mul_ps(_mm512_div_ps(gate, below), up));
}

static void finish_logits(struct decoder *self, int64_t row, int64_t part, const float *sums)
{
    const int64_t size = self->model.vocabulary, first = part * PANEL;
    const int64_t count = size - first < PANEL ? size - first : PANEL;
    memcpy(self->call.logits + row * size + first, sums, (size_t)count * sizeof(float));
}

/* Rotary embedding (Su et al. 2021), halves of a head as the pairs; to bfloat16. */
static void rotate(const float *from, const float *cosines, const float *sines, int64_t size, float scale, bf16 *to)
{
    _Alignas(64) float out[MAX_HEAD_DIM];
    const int64_t half = size / 2;
    for (int64_t at = 0; at < half; at++) {
        out[at] = (from[at] * cosines[at] - from[half + at] * sines[at]) * scale;
        out[half + at] = (from[half + at] * cosines[at] + from[at] * sines[at]) * scale;
    }
    for (int64_t at = 0; at < size; at += 16)
        store_bf16(to + at, _mm512_load_ps(out + at));
}

/* Keys of one key head in one page; the values follow. */
static bf16 *page_keys(const struct decoder *self, int64_t layer, int64_t token, int64_t page, int64_t kv_head)
{
    const struct decoder_model *model = &self->model;
    return self->call.pages[token][page] + (layer * model->num_kv_heads + kv_head) * 2 * PAGE * model->head_dim;
}

/* The queries of one token and one key head, and its key and value into their page. */
static void rotate_part(struct decoder *self, int64_t layer, int64_t token, int64_t kv_head)
{
    const struct decoder_model *model = &self->model;
    const int64_t size = model->head_dim, group = model->num_heads / model->num_kv_heads;
    const int64_t position = self->call.positions[token], slot = position % PAGE;
    const float *cosines = model->cosines + position * size / 2, *sines = model->sines + position * size / 2;
    const float *query = self->qkv + token * self->qkv_width, *key = query + model->num_heads * size;
    const float *value = key + (model->num_kv_heads + kv_head) * size;
    const float scale = 1.44269504f / sqrtf((float)size); /* log2 e: the softmax is one of powers of 2 */
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        rotate(query + head * size, cosines, sines, size, scale, self->query + (token * model->num_heads + head) * size);
    _Alignas(64) bf16 rounded[MAX_HEAD_DIM];
    rotate(key + kv_head * size, cosines, sines, size, 1.0f, rounded);
    bf16 *keys = page_keys(self, layer, token, position / PAGE, kv_head);
    bf16 *values = keys + PAGE * size + slot / 2 * 2 * size + slot % 2;
    keys += slot / KEY_BLOCK * KEY_BLOCK * size + slot % KEY_BLOCK * 2;
    for (int64_t at = 0; at < size; at += 2)
        memcpy(keys + at * KEY_BLOCK, rounded + at, 2 * sizeof(bf16));
    for (int64_t at = 0; at < size; at += 16)
        store_bf16(rounded + at, _mm512_loadu_ps(value + at));
    for (int64_t at = 0; at < size; at++)
        values[2 * at] = rounded[at];
}

static inline __m512bh pair_of(const bf16 *from)
{
    int32_t pair;
    memcpy(&pair, from, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

/* What the softmax over the pages so far has come to (Milakov & Gimelshein 2018). */
struct mixture {
    float highest[HEADS], total[HEADS];
    _Alignas(64) float sums[HEADS][MAX_HEAD_DIM];
};

/* One page's values, weighted, into `num_vectors` times 16 dimensions. */
static inline __attribute__((always_inline)) void mix_values(struct mixture *mixture, int num_heads, int num_vectors,
                                                             const float *shrink, bf16 (*shares)[PAGE],
                                                             const bf16 *values, int64_t size, int64_t at, int64_t count)
{
    __m512 sums[HEADS][4];
    for (int head = 0; head < num_heads; head++)
        for (int vector = 0; vector < num_vectors; vector++)
            sums[head][vector] = _mm512_mul_ps(_mm512_load_ps(mixture->sums[head] + at + 16 * vector),
                                               _mm512_set1_ps(shrink[head]));
    for (int64_t slot = 0; slot < count; slot += 2) {
        const bf16 *here = values + slot * size + 2 * at;
        for (int vector = 0; vector < num_vectors; vector++) {
            const __m512bh pairs = (__m512bh)_mm512_loadu_si512(here + 32 * vector);
            for (int head = 0; head < num_heads; head++)
                sums[head][vector] = _mm512_dpbf16_ps(sums[head][vector], pair_of(shares[head] + slot), pairs);
        }
    }
    for (int head = 0; head < num_heads; head++)
        for (int vector = 0; vector < num_vectors; vector++)
            _mm512_store_ps(mixture->sums[head] + at + 16 * vector, sums[head][vector]);
}

/* One page for some heads that share its keys; `count` positions of it are seen. */
static inline __attribute__((always_inline)) void attend_page(struct mixture *mixture, int num_heads, const bf16 *query,
                                                              const bf16 *keys, int64_t size, int64_t count)
{
    enum { BLOCKS = PAGE / KEY_BLOCK };
    __m512 scores[HEADS][BLOCKS];
    for (int head = 0; head < num_heads; head++)
        for (int block = 0; block < BLOCKS; block++)
            scores[head][block] = _mm512_setzero_ps();
    for (int64_t at = 0; at < size; at += 2)
        for (int block = 0; block < BLOCKS; block++) {
            const __m512bh pairs = (__m512bh)_mm512_loadu_si512(keys + block * KEY_BLOCK * size + at * KEY_BLOCK);
            for (int head = 0; head < num_heads; head++)
                scores[head][block] = _mm512_dpbf16_ps(scores[head][block], pair_of(query + head * size + at), pairs);
        }
    const uint64_t seen = count < PAGE ? (1ULL << count) - 1 : ~0ULL;
    bf16 shares[HEADS][PAGE];
    float shrink[HEADS];
    for (int head = 0; head < num_heads; head++) {
        __m512 highest = _mm512_set1_ps(mixture->highest[head]), total = _mm512_setzero_ps();
        for (int block = 0; block < BLOCKS; block++)
            highest = _mm512_mask_max_ps(highest, (__mmask16)(seen >> 16 * block), highest, scores[head][block]);
        highest = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
        for (int block = 0; block < BLOCKS; block++) {
            const __m512 power = exp2_of(_mm512_sub_ps(scores[head][block], highest));
            const __m512 share = _mm512_maskz_mov_ps((__mmask16)(seen >> 16 * block), power);
            total = _mm512_add_ps(total, share);
            store_bf16(shares[head] + 16 * block, share);
        }
        const __m512 fall = exp2_of(_mm512_sub_ps(_mm512_set1_ps(mixture->highest[head]), highest));
        shrink[head] = _mm512_cvtss_f32(fall);
        mixture->highest[head] = _mm512_cvtss_f32(highest);
        mixture->total[head] = mixture->total[head] * shrink[head] + _mm512_reduce_add_ps(total);
    }
    const bf16 *values = keys + PAGE * size;
    int64_t at = 0;
    for (; at + 64 <= size; at += 64)
        mix_values(mixture, num_heads, 4, shrink, shares, values, size, at, count);
    for (; at < size; at += 16)
        mix_values(mixture, num_heads, 1, shrink, shares, values, size, at, count);
}

static inline __attribute__((always_inline)) void attend_heads(struct decoder *self, int64_t layer, int64_t token,
                                                               int64_t kv_head, int64_t first, int num_heads)
{
    const int64_t size = self->model.head_dim, position = self->call.positions[token];
    const bf16 *query = self->query + (token * self->model.num_heads + first) * size;
    struct mixture mixture;
    for (int head = 0; head < num_heads; head++) {
        mixture.highest[head] = LOWEST;
        mixture.total[head] = 0.0f;
        memset(mixture.sums[head], 0, (size_t)size * sizeof(float));
    }
    for (int64_t page = 0; page <= position / PAGE; page++) {
        const int64_t left = position + 1 - page * PAGE;
        attend_page(&mixture, num_heads, query, page_keys(self, layer, token, page, kv_head), size,
                    left < PAGE ? left : PAGE);
    }
    for (int head = 0; head < num_heads; head++) {
        bf16 *out = self->mixed + token * self->mixed_stride + (first + head) * size;
        const __m512 factor = _mm512_set1_ps(1.0f / mixture.total[head]);
        for (int64_t at = 0; at < size; at += 16)
            store_bf16(out + at, _mm512_mul_ps(_mm512_load_ps(mixture.sums[head] + at), factor));
    }
}

static void attend_part(struct decoder *self, int64_t layer, int64_t token, int64_t kv_head)
{
    const int64_t group = self->model.num_heads / self->model.num_kv_heads, end = (kv_head + 1) * group;
    for (int64_t first = kv_head * group; first < end; first += HEADS) {
        switch (end - first) {
        case 1: attend_heads(self, layer, token, kv_head, first, 1); break;
        case 2: attend_heads(self, layer, token, kv_head, first, 2); break;
        case 3: attend_heads(self, layer, token, kv_head, first, 3); break;
        default: attend_heads(self, layer, token, kv_head, first, HEADS);
        }
    }
}

static enum kind kind_of(const struct decoder *self, int32_t phase)
{
    const int64_t num_layers = self->model.num_layers;
    if (phase == 0)
        return EMBED;
    if (phase <= num_layers * LAYER_KINDS)
        return (enum kind)(INPUT_NORM + (phase - 1) % LAYER_KINDS);
    return phase == num_layers * LAYER_KINDS + 1 ? LAST_NORM : HEAD;
}

static int32_t parts_of(const struct decoder *self, int32_t phase)
{
    const struct decoder_model *model = &self->model;
    const int64_t tokens = self->call.num_tokens;
    switch (kind_of(self, phase)) {
    case QKV: return (int32_t)(self->qkv_width / PANEL);
    case ROTATE: case ATTEND: return (int32_t)(tokens * model->num_kv_heads);
    case OUTPUT: case DOWN: return (int32_t)(model->width / PANEL);
    case GATE_UP: return (int32_t)(model->inner / TILE);
    case LAST_NORM: return (int32_t)self->call.num_outputs;
    case HEAD: return (int32_t)(self->call.num_outputs ? (model->vocabulary + PANEL - 1) / PANEL : 0);
    default: return (int32_t)tokens;
    }
}

static void do_part(void *work, int32_t phase, int32_t part)
{
    struct decoder *self = work;
    const struct decoder_model *model = &self->model;
    const int64_t tokens = self->call.num_tokens, number = (phase - 1) / LAYER_KINDS;
    const struct decoder_layer *layer = &model->layers[number];
    const int64_t kv_heads = model->num_kv_heads, mixed_width = model->num_heads * model->head_dim;
    switch (kind_of(self, phase)) {
    case EMBED: embed(self, part); break;
    case INPUT_NORM: norm_token(self, layer->input_norm, part, part); break;
    case QKV:
        product_part(self, self->normed, self->normed_stride, tokens, layer->qkv, model->width, part, finish_qkv);
        break;
    case ROTATE: rotate_part(self, number, part / kv_heads, part % kv_heads); break;
    case ATTEND: attend_part(self, number, part / kv_heads, part % kv_heads); break;
    case OUTPUT:
        product_part(self, self->mixed, self->mixed_stride, tokens, layer->output, mixed_width, part, finish_residual);
        break;
    case OUTPUT_NORM: norm_token(self, layer->output_norm, part, part); break;
    case GATE_UP:
        product_part(self, self->normed, self->normed_stride, tokens, layer->gate_up, model->width, part,
                     finish_gate_up);
        break;
    case DOWN:
        product_part(self, self->inner, self->inner_stride, tokens, layer->down, model->inner, part, finish_residual);
        break;
    case LAST_NORM: norm_token(self, model->norm, self->call.outputs[part], part); break;
    case HEAD:
        product_part(self, self->normed, self->normed_stride, self->call.num_outputs, model->head, model->width, part,
                     finish_logits);
    }
}

static void leave(void)
{
    _tile_release();
}

void decoder_free(struct decoder *self)
{
    if (!self)
        return;
    if (self->team)
        team_free(self->team);
    void *const parts[] = {self->num_parts, self->x, self->qkv, self->query, self->normed, self->mixed, self->inner};
    for (size_t number = 0; number < sizeof parts / sizeof *parts; number++)
        free(parts[number]);
    free(self);
}

/* Room for MAX_TOKENS rows of a product and for what it may read behind them. */
static bf16 *rows_of(int64_t stride)
{
    return aligned_alloc(64, (size_t)((MAX_TOKENS + SPARE_ROWS) * stride) * sizeof(bf16));
}

/* Makes a decoder; what the model points to must outlive it. NULL without memory. */
struct decoder *decoder_new(const struct decoder_model *model, int num_threads)
{
    struct decoder *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    const int64_t mixed_width = model->num_heads * model->head_dim;
    self->model = *model;
    self->normed_stride = model->width + ROW_GAP;
    self->mixed_stride = mixed_width + ROW_GAP;
    self->inner_stride = model->inner + ROW_GAP;
    self->qkv_width = mixed_width + 2 * model->num_kv_heads * model->head_dim;
    const int32_t num_phases = (int32_t)(model->num_layers * LAYER_KINDS + 3);
    self->num_parts = calloc((size_t)num_phases, sizeof(int32_t));
    self->x = aligned_alloc(64, (size_t)(MAX_TOKENS * model->width) * sizeof(float));
    self->qkv = aligned_alloc(64, (size_t)(MAX_TOKENS * self->qkv_width) * sizeof(float));
    self->query = aligned_alloc(64, (size_t)(MAX_TOKENS * mixed_width) * sizeof(bf16));
    self->normed = rows_of(self->normed_stride);
    self->mixed = rows_of(self->mixed_stride);
    self->inner = rows_of(self->inner_stride);
    self->team = team_new(num_threads);
    if (!(self->num_parts && self->x && self->qkv && self->query && self->normed && self->mixed && self->inner &&
          self->team)) {
        decoder_free(self);
        return NULL;
    }
    self->team->num_parts = self->num_parts;
    self->team->num_phases = num_phases;
    self->team->do_part = do_part;
    self->team->leave = leave;
    self->team->work = self;
    return self;
}

/* Computes at most MAX_TOKENS tokens; those of one answer must follow each other in order. */
void decoder_run(struct decoder *self, const struct decoder_call *call)
{
    self->call = *call;
    for (int32_t phase = 0; phase < self->team->num_phases; phase++)
        self->num_parts[phase] = parts_of(self, phase);
    team_run(self->team);
}

/* Ask for large pages, which save a twentieth of the time that weights take to arrive. */
void decoder_use_large_pages(char *from, int64_t bytes)
{
    const uintptr_t large = 2 << 20, first = ((uintptr_t)from + large - 1) / large * large;
    const uintptr_t last = ((uintptr_t)from + (uintptr_t)bytes) / large * large;
    if (first < last)
        madvise((void *)first, last - first, MADV_HUGEPAGE);
}
