/* WordPiece: what Hugging Face's BertNormalizer, BertPreTokenizer and WordPiece make of a text, as long as each of
 * its characters is normalised on its own and stands in the tokenizer's table.
 *
 * The vocabulary is a trie in a double array (Aoe, "An Efficient Digital Search Algorithm by Using a
 * Double-Array Structure", 1989): the child of a node by a byte lies at the node's base plus that byte, if
 * what lies there names the node as its parent. Pieces that continue a word are below the node of "##".
 *
 * Nothing here allocates, or changes once it is built: threads share a tokenizer.
 */
#include <stdint.h>
#include <string.h>

/* What it was compiled from, so that an older library is known by it. */
const char *compiled_sources(void)
{
    return SOURCES;
}

enum { MAX_BYTE = 255, MAX_CHARACTERS = 254, CHARACTER_BYTES = 5 };
enum { MAX_WORD_BYTES = (MAX_CHARACTERS + 1) * CHARACTER_BYTES };
enum { ROOT = 0, NOWHERE = -1, TAKEN = -2 };
/* What a character is to the pre-tokenizer: ALONE is a word of its own, and so is an OPENING, with which an added
 * token may begin. Of a FOREIGN one nothing is known. */
enum kind { FOREIGN, LETTER, DROPPED, BLANK, ALONE, OPENING };
enum state { WHOLE, CUT, REFUSED };

struct node {
    int32_t base, parent, id; /* parent: NOWHERE where there is no node; id: -1 where no piece ends */
};

/* A character, and what it is normalised to. */
struct character {
    uint8_t kind, num_characters, num_bytes, bytes[CHARACTER_BYTES];
};

struct wordpiece {
    const struct node *nodes;
    const struct character *characters;
    const uint8_t *added; /* normalised added tokens, each after its length */
    const int32_t *before, *after;
    int64_t num_characters; /* in the table, by code point */
    int64_t num_before, num_after;
    int64_t most_tokens;     /* of a text, those before and after it not counted */
    int64_t most_characters; /* of a word, at most MAX_CHARACTERS; a longer one is unknown */
    int32_t continuing;      /* the node below which the pieces are that continue a word */
    int32_t unknown;
};

/* NOWHERE if there is none. */
static inline int32_t child_of(const struct node *nodes, int32_t node, uint8_t byte)
{
    const int32_t child = nodes[node].base + byte;
    return nodes[child].parent == node ? child : NOWHERE;
}

/* Building --------------------------------------------------------------------------------------------- */

#define MOSTLY 0.95 /* beyond this share of taken nodes, looking for a free one takes longer than it is worth */

struct builder {
    const uint8_t *keys; /* sorted by their bytes, end to end; key n is from starts[n] to starts[n + 1] */
    const int64_t *starts;
    const int32_t *ids;
    struct node *nodes;
    int64_t num_nodes;
    int64_t vacant; /* where to look for free nodes; next to none before it is */
};

/* The first key behind `first` that has another byte at `depth`. */
static inline int64_t next_child(const struct builder *build, int64_t first, int64_t last, int64_t depth)
{
    const uint8_t byte = build->keys[build->starts[first] + depth];
    while (first < last && build->keys[build->starts[first] + depth] == byte)
        first++;
    return first;
}

/* A base at which all children find a free node; NOWHERE if there is none. */
static int64_t free_base(struct builder *build, const uint8_t *bytes, int num_bytes)
{
    const int64_t start = build->vacant > bytes[0] ? build->vacant : bytes[0];
    int64_t num_taken = 0;
    for (int64_t at = start;; at++) {
        const int64_t base = at - bytes[0];
        if (base + MAX_BYTE >= build->num_nodes)
            return NOWHERE;
        if (build->nodes[at].parent != NOWHERE) {
            num_taken++;
            continue;
        }
        int number = 1;
        while (number < num_bytes && build->nodes[base + bytes[number]].parent == NOWHERE)
            number++;
        if (number == num_bytes) {
            if (num_taken >= (at - start) * MOSTLY)
                build->vacant = at;
            return base;
        }
    }
}

/* Put the keys from `first` to `last`, which share their first `depth` bytes, below `node`; 0 if there is no room. */
static int add_keys(struct builder *build, int64_t first, int64_t last, int64_t depth, int32_t node)
{
    if (build->starts[first + 1] - build->starts[first] == depth)
        build->nodes[node].id = build->ids[first++];
    if (first == last)
        return 1;
    uint8_t bytes[MAX_BYTE + 1];
    int num_bytes = 0;
    for (int64_t key = first; key < last; key = next_child(build, key, last, depth))
        bytes[num_bytes++] = build->keys[build->starts[key] + depth];
    const int64_t base = free_base(build, bytes, num_bytes);
    if (base == NOWHERE)
        return 0;
    build->nodes[node].base = (int32_t)base;
    for (int number = 0; number < num_bytes; number++)
        build->nodes[base + bytes[number]].parent = node;
    for (int64_t key = first; key < last;) {
        const int32_t child = (int32_t)base + build->keys[build->starts[key] + depth];
        const int64_t next = next_child(build, key, last, depth);
        if (!add_keys(build, key, next, depth + 1, child))
            return 0;
        key = next;
    }
    return 1;
}

/* Build the trie of distinct keys, of at most some hundreds of bytes each; 0 if it does not fit. */
int wordpiece_build(const uint8_t *keys, const int64_t *starts, const int32_t *ids, int64_t num_keys,
                    struct node *nodes, int64_t num_nodes)
{
    struct builder build = {keys, starts, ids, nodes, num_nodes, 0};
    for (int64_t node = 0; node < num_nodes; node++)
        nodes[node] = (struct node){0, NOWHERE, -1};
    nodes[ROOT].parent = TAKEN;
    return num_keys == 0 || add_keys(&build, 0, num_keys, 0, ROOT);
}

/* The node that a key leads to, or NOWHERE. */
int32_t wordpiece_find(const struct node *nodes, const uint8_t *key, int64_t length)
{
    int32_t node = ROOT;
    for (int64_t at = 0; at < length && node != NOWHERE; at++)
        node = child_of(nodes, node, key[at]);
    return node;
}

/* Tokenising ------------------------------------------------------------------------------------------- */

/* A word. Its bytes are kept as long as it has no more characters than a word may have. */
struct word {
    int64_t num_characters, num_bytes;
    int32_t node; /* that the bytes lead to; NOWHERE if to none */
    uint8_t bytes[MAX_WORD_BYTES];
};

/* Where a text's tokens go; no more than `last - next` are kept. */
struct output {
    int32_t *next, *last;
    int is_cut;
};

/* The character of several bytes at `*at`, which is moved behind it. */
static const struct character *long_character(const struct wordpiece *self, const uint8_t **at, const uint8_t *end)
{
    static const struct character foreign = {.kind = FOREIGN};
    const uint8_t first = **at;
    const int length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (end - *at < length)
        return &foreign;
    int64_t code = first & (0xff >> (length + 1));
    for (int number = 1; number < length; number++)
        code = code << 6 | ((*at)[number] & 0x3f);
    *at += length;
    return code < self->num_characters ? self->characters + code : &foreign;
}

static inline const struct character *next_character(const struct wordpiece *self, const uint8_t **at, const uint8_t *end)
{
    return **at < 0x80 ? self->characters + *(*at)++ : long_character(self, at, end);
}

/* The longest piece, then the longest that continues it, and so on; how many, or 0 if that gets stuck. */
static int64_t split_word(const struct wordpiece *self, const uint8_t *bytes, int64_t num_bytes, int32_t *pieces)
{
    const struct node *nodes = self->nodes;
    int64_t num_pieces = 0, start = 0;
    for (int32_t node = ROOT; start < num_bytes; node = self->continuing) {
        int64_t end = start;
        for (int64_t at = start; at < num_bytes && node != NOWHERE; at++) {
            node = child_of(nodes, node, bytes[at]);
            if (node != NOWHERE && nodes[node].id >= 0) {
                pieces[num_pieces] = nodes[node].id;
                end = at + 1;
            }
        }
        if (end == start)
            return 0;
        num_pieces++;
        start = end;
    }
    return num_pieces;
}

static void put_pieces(const struct wordpiece *self, const uint8_t *bytes, int64_t num_bytes,
                       int64_t num_characters, struct output *out)
{
    int32_t pieces[MAX_WORD_BYTES];
    int64_t num_pieces = 0;
    if (num_characters <= self->most_characters)
        num_pieces = split_word(self, bytes, num_bytes, pieces);
    if (num_pieces == 0)
        pieces[num_pieces++] = self->unknown;
    if (num_pieces > out->last - out->next) {
        num_pieces = out->last - out->next;
        out->is_cut = 1;
    }
    memcpy(out->next, pieces, (size_t)num_pieces * sizeof *pieces);
    out->next += num_pieces;
}

static inline void put_word(const struct wordpiece *self, const struct word *word, struct output *out)
{
    const int32_t id = word->node == NOWHERE ? -1 : self->nodes[word->node].id;
    if (id >= 0 && word->num_characters <= self->most_characters && out->next < out->last)
        *out->next++ = id; /* most words are one piece */
    else
        put_pieces(self, word->bytes, word->num_bytes, word->num_characters, out);
}

/* Whether an added token begins at `at`, in the text as it is normalised. */
static int is_added_token(const struct wordpiece *self, const uint8_t *start, const uint8_t *end)
{
    for (const uint8_t *added = self->added; *added; added += 1 + *added) {
        int matched = 0;
        for (const uint8_t *at = start; at < end && matched < *added;) {
            const struct character *character = next_character(self, &at, end);
            const int left = *added - matched;
            const int length = character->num_bytes < left ? character->num_bytes : left;
            if (character->kind == FOREIGN || memcmp(character->bytes, added + 1 + matched, (size_t)length))
                break;
            matched += length;
        }
        if (matched == *added)
            return 1;
    }
    return 0;
}

/* Read letters into a word, up to the end or a character of another kind, which is returned; `*at` is moved to it. */
static inline const struct character *read_word(const struct wordpiece *self, const uint8_t **at, const uint8_t *end,
                                         struct word *word)
{
    static const struct character none = {.kind = BLANK};
    const struct character *character = &none;
    int64_t num_characters = 0, num_bytes = 0;
    int32_t node = ROOT;
    for (const uint8_t *next = *at; (*at = next) < end;) {
        character = next_character(self, &next, end);
        if (character->kind == DROPPED)
            continue;
        if (character->kind != LETTER)
            break;
        num_characters += character->num_characters;
        if (num_characters > self->most_characters)
            continue;
        memcpy(word->bytes + num_bytes, character->bytes, CHARACTER_BYTES);
        num_bytes += character->num_bytes;
        for (int number = 0; number < character->num_bytes && node != NOWHERE; number++)
            node = child_of(self->nodes, node, character->bytes[number]);
    }
    word->num_characters = num_characters;
    word->num_bytes = num_bytes;
    word->node = node;
    return *at < end ? character : &none;
}

/* The tokens of one text, without those before and after it. */
static enum state put_text(const struct wordpiece *self, const uint8_t *at, const uint8_t *end, struct output *out)
{
    struct word word;
    while (at < end) {
        const struct character *character = read_word(self, &at, end, &word);
        if (character->kind == FOREIGN)
            return REFUSED; /* the word may go on */
        if (word.num_characters)
            put_word(self, &word, out);
        if (out->is_cut)
            return CUT;
        if (character->kind == OPENING && is_added_token(self, at, end))
            return REFUSED;
        if (character->kind != BLANK)
            put_pieces(self, character->bytes, character->num_bytes, 1, out);
        if (out->is_cut)
            return CUT;
        if (at < end)
            next_character(self, &at, end);
    }
    return WHOLE;
}

/* Tokenise texts of UTF-8.
 *
 * texts: end to end.
 * numbers: (3, num_texts): the bytes of each text; receives where its tokens end, and its state, which is whether
 *     it is whole, was cut, or is refused because a foreign character or an added token is in it (then it has no
 *     tokens).
 * ids: receives the tokens, end to end; room for the tokens before and after each text and for the lesser of
 *     its bytes and most_tokens.
 */
void wordpiece_encode(const struct wordpiece *self, const uint8_t *texts, int64_t num_texts, int64_t *numbers,
                      int32_t *ids)
{
    const int64_t *lengths = numbers;
    int64_t *ends = numbers + num_texts, *states = ends + num_texts;
    int32_t *next = ids;
    for (int64_t number = 0; number < num_texts; number++) {
        const int64_t length = lengths[number];
        const int64_t room = length < self->most_tokens ? length : self->most_tokens;
        int32_t *const inner = next + self->num_before;
        struct output out = {inner, inner + room, 0};
        states[number] = put_text(self, texts, texts + length, &out);
        if (states[number] != REFUSED) {
            memcpy(next, self->before, (size_t)self->num_before * sizeof *next);
            memcpy(out.next, self->after, (size_t)self->num_after * sizeof *next);
            next = out.next + self->num_after;
        }
        ends[number] = next - ids;
        texts += length;
    }
}
