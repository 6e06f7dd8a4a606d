/* WordPiece over ASCII texts: what Hugging Face's BertNormalizer, BertPreTokenizer and WordPiece make of them.
 *
 * The vocabulary is a trie in a double array (Aoe, "An Efficient Digital Search Algorithm by Using a
 * Double-Array Structure", 1989): the child of a node by a byte lies at the node's base plus that byte, if
 * what lies there names the node as its parent. Pieces that continue a word are below the node of "##".
 *
 * Nothing here allocates, or changes once it is built: threads share a tokenizer.
 */
#include <stdint.h>
#include <string.h>

enum { MAX_BYTE = 127, MAX_CHARACTERS = 255 };
enum { ROOT = 0, NOWHERE = -1, TAKEN = -2 };
/* What a byte is to the pre-tokenizer; an added token begins with an OPENING. */
enum kind { LETTER, DROPPED, BLANK, PUNCTUATION, OPENING };
enum state { WHOLE, CUT, REFUSED };

struct node {
    int32_t base, parent, id; /* parent: NOWHERE where there is no node; id: -1 where no piece ends */
};

struct wordpiece {
    const struct node *nodes;
    const uint8_t *kinds, *plain; /* of each byte, and what it is normalised to */
    const uint8_t *added;         /* normalised added tokens, each after its length */
    const int32_t *before, *after;
    int64_t num_before, num_after;
    int64_t most_tokens;    /* of a text, those before and after it not counted */
    int64_t most_characters; /* of a word; a longer one is unknown */
    int32_t continuing;     /* the node below which the pieces are that continue a word */
    int32_t unknown;
};

/* Building --------------------------------------------------------------------------------------------- */

#define MOSTLY 0.95 /* beyond this share of taken nodes, looking for a free one takes longer than it is worth */

struct builder {
    const uint8_t *keys; /* sorted by their bytes, end to end; key n is from starts[n] to starts[n + 1] */
    const int64_t *starts;
    const int32_t *ids;
    struct node *nodes;
    int64_t num_nodes;
    int64_t vacant; /* where to look for free nodes; of those before it next to none is */
};

/* The byte in which the children differ that the keys from `first` have at `depth`, and the next such key. */
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

/* Build the trie of distinct ASCII keys, of at most some hundreds of bytes each; 0 if it does not fit. */
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
    for (int64_t at = 0; at < length; at++) {
        const int32_t child = nodes[node].base + key[at];
        if (nodes[child].parent != node)
            return NOWHERE;
        node = child;
    }
    return node;
}

/* Tokenising ------------------------------------------------------------------------------------------- */

/* The longest piece, then the longest that continues it, and so on; how many, or 0 if that gets stuck. */
static int64_t split_word(const struct wordpiece *self, const uint8_t *word, int64_t length, int32_t *pieces)
{
    const struct node *nodes = self->nodes;
    int64_t num_pieces = 0, start = 0;
    for (int32_t node = ROOT; start < length; node = self->continuing) {
        int64_t end = start;
        for (int64_t at = start; at < length && node != NOWHERE; at++) {
            const int32_t child = nodes[node].base + word[at];
            node = nodes[child].parent == node ? child : NOWHERE;
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

/* Whether an added token begins at `at`, once dropped bytes between its own are left out. */
static int is_added_token(const struct wordpiece *self, const uint8_t *at, const uint8_t *end)
{
    for (const uint8_t *added = self->added; *added; added += 1 + *added) {
        int matched = 0;
        for (const uint8_t *byte = at; byte < end && matched < *added; byte++) {
            if (self->kinds[*byte] == DROPPED)
                continue;
            if (self->plain[*byte] != added[1 + matched])
                break;
            matched++;
        }
        if (matched == *added)
            return 1;
    }
    return 0;
}

/* Where a text's tokens go; no more than `last - next` are kept. */
struct output {
    int32_t *next, *last;
    int is_cut;
};

static void put_word(const struct wordpiece *self, const uint8_t *word, int64_t length, struct output *out)
{
    int32_t pieces[MAX_CHARACTERS];
    int64_t num_pieces = length > self->most_characters ? 0 : split_word(self, word, length, pieces);
    if (num_pieces == 0)
        pieces[num_pieces++] = self->unknown;
    if (num_pieces > out->last - out->next) {
        num_pieces = out->last - out->next;
        out->is_cut = 1;
    }
    memcpy(out->next, pieces, (size_t)num_pieces * sizeof *pieces);
    out->next += num_pieces;
}

/* The tokens of one text, without those before and after it. */
static enum state put_text(const struct wordpiece *self, const uint8_t *at, const uint8_t *end, struct output *out)
{
    const uint8_t *const kinds = self->kinds, *const plain = self->plain;
    const struct node *const nodes = self->nodes;
    uint8_t word[MAX_CHARACTERS + 1];
    int64_t length = 0;
    int32_t node = ROOT; /* of the word so far */
    for (; !out->is_cut; at++) {
        const enum kind kind = at < end ? kinds[*at] : BLANK;
        if (kind == LETTER) {
            const uint8_t letter = plain[*at];
            word[length] = letter;
            length += length < MAX_CHARACTERS;
            if (node != NOWHERE) {
                const int32_t child = nodes[node].base + letter;
                node = nodes[child].parent == node ? child : NOWHERE;
            }
            continue;
        }
        if (kind == DROPPED)
            continue;
        if (length) { /* most words are one piece, which is then known already */
            if (node != NOWHERE && nodes[node].id >= 0 && length <= self->most_characters && out->next < out->last)
                *out->next++ = nodes[node].id;
            else
                put_word(self, word, length, out);
            length = 0;
            node = ROOT;
        }
        if (at >= end)
            break;
        if (kind == BLANK)
            continue;
        if (kind == OPENING && is_added_token(self, at, end))
            return REFUSED;
        if (!out->is_cut)
            put_word(self, plain + *at, 1, out);
    }
    return out->is_cut ? CUT : WHOLE;
}

/* Tokenise texts of ASCII bytes.
 *
 * texts: end to end.
 * numbers: (3, num_texts): the bytes of each text; receives where its tokens end, and its state, which is whether
 *     it is whole, was cut, or is refused because an added token is in it (then it has no tokens).
 * ids: receives the tokens, end to end; room for the tokens before and after each text and for the lesser of
 *     its length and most_tokens.
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
