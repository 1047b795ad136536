/* One pass over a JSON document, by a plan of what is read of it. See _scanner.c, which makes plans and results. */
#ifndef TOCSIN_JSON_SCAN_H
#define TOCSIN_JSON_SCAN_H
#include "json_tokens.h"

#define MOST_SLOTS 32
#define MOST_MEMBERS 64 /* of a node: a bit for each says that it was there */
#define AXES 4          /* arrays on the way to a value, and as many within it */

enum kind { NUMBERS, TEXT, PRESENCE, COUNT, KINDS };
enum { ANY = -1, LAST = -2 }; /* which elements of an array: all of them, as an axis, or the last one; else its place */

typedef struct {
    const char *name;
    Py_ssize_t size;
    int32_t node;
} Member;

typedef struct {
    Member *members;
    int32_t n_members, element; /* the node of all elements, -1 for none */
    int32_t is_element;         /* where null is no value */
    int32_t slots[MOST_SLOTS], n_slots;   /* whose value stands here */
    int32_t within[MOST_SLOTS], n_within; /* whose value stands in its elements, or further down in these */
    int32_t numbers, texts;               /* how many of its slots are such */
} Node;

typedef struct {
    int32_t kind, n_takes, takes[AXES], axes; /* axes: how many of the arrays on the way are one */
} Slot;

typedef struct { /* what is read of documents */
    Node *nodes;
    Py_ssize_t n_nodes, n_slots;
    Slot slots[MOST_SLOTS];
    int any_case;
} Plan;

typedef struct { /* what was read for one slot */
    int32_t dimensions, lengths[2 * AXES]; /* -1: not known yet */
    float *values;
    Py_ssize_t count, room;
    double single;
    const char *text;
    Py_ssize_t size;
    int is_there;
} Found;

typedef struct {
    const Plan *of;
    const char *end;
    int64_t places[AXES]; /* in each array on the way */
    Found found[MOST_SLOTS];
} Scan;

/* Whether the elements that we are in are those that a slot takes, in the first `arrays` arrays on the way. */
static int is_taken(const Scan *s, const Slot *slot, int arrays) {
    for (int i = 0; i < arrays; i++)
        if (slot->takes[i] >= 0 && slot->takes[i] != s->places[i]) return 0;
    return 1;
}

static void forget(Found *found) {
    found->dimensions = -1;
    for (int i = 0; i < 2 * AXES; i++) found->lengths[i] = -1;
    found->count = 0;
    found->text = NULL;
    found->is_there = 0;
    found->size = 0;
}

/* Add a number to a slot, at so many dimensions; 0 where that cannot be. */
static int add(Found *found, double value, int dimensions) {
    if (found->dimensions >= 0 && found->dimensions != dimensions) return 0;
    found->dimensions = dimensions;
    found->single = value;
    if (!dimensions) return ++found->count == 1;
    if (found->count == found->room) {
        Py_ssize_t room = found->room ? 2 * found->room : 64;
        float *more = PyMem_Realloc(found->values, (size_t)room * sizeof(float));
        if (!more) return 0;
        found->values = more;
        found->room = room;
    }
    found->values[found->count++] = (float)value;
    return 1;
}

/* Note how long an array of a slot's values is; 0 where another of the same axis has another length. */
static int has_length(Found *found, int axis, int64_t length) {
    if (length > INT32_MAX) return 0;
    if (found->lengths[axis] >= 0) return found->lengths[axis] == length;
    found->lengths[axis] = (int32_t)length;
    return 1;
}

/* Numbers of a node's slots, alone or in arrays that are `within` so many. Behind them; NULL where something else is. */
static const char *numbers(Scan *s, const char *at, const Node *node, int arrays, int within, int depth) {
    double value = 0;
    int is_word = *at == 't' || *at == 'f';
    if (depth > DEPTH) return NULL;
    if (*at == '[') {
        int64_t place = 0;
        int more;
        if (within >= AXES) return NULL;
        for (at = first(at, ']', &more); more; at = next(at, ']', &more), place++)
            if (!(at = numbers(s, at, node, arrays, within + 1, depth + 1))) return NULL;
        for (int i = 0; at && i < node->n_slots; i++) {
            const Slot *slot = &s->of->slots[node->slots[i]];
            if (slot->kind == NUMBERS && is_taken(s, slot, arrays) &&
                !has_length(&s->found[node->slots[i]], slot->axes + within, place))
                return NULL;
        }
        return at;
    }
    if (is_word) {
        value = *at == 't';
        at = behind_word(at, value ? "true" : "false");
    } else {
        at = behind_number(at, &value);
    }
    for (int i = 0; at && i < node->n_slots; i++) {
        const Slot *slot = &s->of->slots[node->slots[i]];
        int dimensions = slot->axes + within;
        if (slot->kind != NUMBERS || !is_taken(s, slot, arrays)) continue;
        if (is_word && !dimensions) return NULL; /* a truth value, where that may be no number */
        if (!add(&s->found[node->slots[i]], value, dimensions)) return NULL;
    }
    return at;
}

/* Whether a parser that ignores case may take a name for one of a node's members. */
static int may_be_read(const Node *node, const char *name, Py_ssize_t size) {
    for (Py_ssize_t i = 0; i < size; i++)
        if ((unsigned char)name[i] >= 0x80) return 1; /* some are like letters of ASCII */
    for (int i = 0; i < node->n_members; i++) {
        Py_ssize_t same = 0;
        if (node->members[i].size != size) continue;
        while (same < size && lower(node->members[i].name[same]) == lower(name[same])) same++;
        if (same == size) return 1;
    }
    return 0;
}

static const char *value(Scan *s, const char *at, int32_t number, int arrays, int depth);

static const char *members(Scan *s, const char *at, const Node *node, int arrays, int depth) {
    const char *end = s->end, *name;
    uint64_t seen = 0;
    Py_ssize_t size;
    int more, escapes;
    for (at = first(at, '}', &more); more; at = next(at, '}', &more)) {
        int32_t there = -1;
        escapes = 0;
        if (!(at = behind_name(at, end, &name, &size, &escapes)) || escapes) return NULL;
        for (int i = 0; i < node->n_members && there < 0; i++) {
            const Member *member = &node->members[i];
            if (member->size != size || memcmp(member->name, name, (size_t)size)) continue;
            if (seen & (uint64_t)1 << i) return NULL;
            seen |= (uint64_t)1 << i;
            there = member->node;
        }
        if (there < 0 && s->of->any_case && may_be_read(node, name, size)) return NULL;
        at = there < 0 ? behind_unread(at, end, depth + 1) : value(s, at, there, arrays, depth + 1);
        if (!at) return NULL;
    }
    return at;
}

static const char *elements(Scan *s, const char *at, const Node *node, int arrays, int depth) {
    int64_t place = 0;
    int more;
    for (at = first(at, ']', &more); more; at = next(at, ']', &more), place++) {
        s->places[arrays] = place;
        for (int i = 0; i < node->n_within; i++) {
            const Slot *slot = &s->of->slots[node->within[i]];
            if (slot->takes[arrays] == LAST && is_taken(s, slot, arrays))
                forget(&s->found[node->within[i]]);
        }
        if (!(at = value(s, at, node->element, arrays + 1, depth + 1))) return NULL;
    }
    for (int i = 0; at && i < node->n_within; i++) {
        const Slot *slot = &s->of->slots[node->within[i]];
        int axis = 0;
        if (slot->kind != NUMBERS || slot->takes[arrays] != ANY || !is_taken(s, slot, arrays)) continue;
        for (int j = 0; j < arrays; j++) axis += slot->takes[j] == ANY;
        if (!has_length(&s->found[node->within[i]], axis, place)) return NULL;
    }
    for (int i = 0; at && i < node->n_slots; i++) { /* of the array itself: COUNT, or PRESENCE */
        const Slot *slot = &s->of->slots[node->slots[i]];
        Found *found = &s->found[node->slots[i]];
        if (!is_taken(s, slot, arrays)) continue;
        if (slot->kind == COUNT) found->count = place;
        found->is_there = slot->kind == COUNT || place > 0 || found->is_there;
    }
    return at;
}

/* Note that there is a value for the node's slots of PRESENCE. */
static void note(Scan *s, const Node *node, int arrays) {
    for (int i = 0; i < node->n_slots; i++) {
        const Slot *slot = &s->of->slots[node->slots[i]];
        if (slot->kind == PRESENCE && is_taken(s, slot, arrays)) s->found[node->slots[i]].is_there = 1;
    }
}

static const char *text(Scan *s, const char *from, const Node *node, int arrays) {
    int escapes = 0;
    const char *at = behind_string(from + 1, s->end, &escapes);
    if (!at || escapes) return NULL;
    for (int i = 0; i < node->n_slots; i++) {
        const Slot *slot = &s->of->slots[node->slots[i]];
        Found *found = &s->found[node->slots[i]];
        if (slot->kind != TEXT || !is_taken(s, slot, arrays)) continue;
        found->text = from + 1;
        found->size = at - from - 2;
    }
    return at;
}

/* Read the value at a node, behind so many arrays. Behind it; NULL where msgspec has to read the document. */
static const char *value(Scan *s, const char *from, int32_t number, int arrays, int depth) {
    const Node *node = &s->of->nodes[number];
    const char *at;
    if (depth > DEPTH) return NULL;
    if (!node->n_members && node->element < 0 && !node->numbers && !node->texts) {
        at = behind_unread(from, s->end, depth);
        if (at && is_filled(from, at - from)) note(s, node, arrays);
        return at;
    }
    if (*from == 'n') return node->is_element ? NULL : behind_word(from, "null");
    if (*from == '[' && node->element >= 0) return elements(s, from, node, arrays, depth);
    if (*from == '"') return node->texts ? text(s, from, node, arrays) : NULL;
    if (*from == '{') {
        at = node->n_members ? members(s, from, node, arrays, depth) : NULL;
        if (at) note(s, node, arrays);
        return at;
    }
    return node->numbers ? numbers(s, from, node, arrays, 0, depth) : NULL;
}
#endif
