/* One pass over a JSON document, by a plan of what is read of it. See _scanner.c, which makes plans and results. */
#ifndef TOCSIN_JSON_SCAN_H
#define TOCSIN_JSON_SCAN_H
#include "json_tokens.h"

#define MOST_SLOTS 32
#define MOST_MEMBERS 64 /* of a node: a bit for each says that it was there */
#define AXES 4          /* arrays on the way to a value, and as many within it */
#define DEPTH 100       /* objects and arrays in each other */

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
    int32_t within[MOST_SLOTS], n_within; /* whose value stands here or further down */
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
    const char *at, *end;
    int64_t places[AXES]; /* in each array on the way */
    Found found[MOST_SLOTS];
} Scan;

static int begins(Scan *s, const char *word, Py_ssize_t size) {
    if (s->end - s->at < size || memcmp(s->at, word, (size_t)size)) return 0;
    s->at += size;
    return 1;
}

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

/* The next place in an array: 1 where a value follows, 0 where it ends, -1 where it is none. */
static inline int next_element(Scan *s, int64_t place) {
    s->at = spaces_skipped(s->at, s->end);
    if (s->at >= s->end) return -1;
    if (*s->at == ']') {
        s->at++;
        return 0;
    }
    if (place) {
        if (*s->at != ',') return -1;
        s->at = spaces_skipped(s->at + 1, s->end);
        if (s->at < s->end && *s->at == ']') return -1;
    }
    return 1;
}

/* The next name in an object: 1 where there is one and its value follows, 0 where it ends, -1 where it is none. */
static inline int next_name(Scan *s, int is_first, const char **name, Py_ssize_t *size, int *escapes) {
    s->at = spaces_skipped(s->at, s->end);
    if (s->at >= s->end) return -1;
    if (*s->at == '}') {
        s->at++;
        return 0;
    }
    if (!is_first) {
        if (*s->at != ',') return -1;
        s->at = spaces_skipped(s->at + 1, s->end);
    }
    if (s->at >= s->end || *s->at != '"') return -1;
    *name = ++s->at;
    *escapes = 0;
    const char *behind = behind_string(s->at, s->end, escapes);
    if (!behind) return -1;
    *size = behind - 1 - *name;
    s->at = spaces_skipped(behind, s->end);
    if (s->at >= s->end || *s->at != ':') return -1;
    s->at = spaces_skipped(s->at + 1, s->end);
    return 1;
}

/* Behind a value that nobody reads; 0 where it is none. */
static int skip(Scan *s, int depth) {
    int more, escapes = 0;
    if (s->at >= s->end || depth > DEPTH) return 0;
    switch (*s->at) {
    case '"': return (s->at = behind_string(s->at + 1, s->end, &escapes)) != NULL;
    case '{': {
        const char *name;
        Py_ssize_t size;
        s->at++;
        for (int first = 1; (more = next_name(s, first, &name, &size, &escapes)) > 0; first = 0)
            if (!skip(s, depth + 1)) return 0;
        return !more;
    }
    case '[':
        s->at++;
        for (int64_t place = 0; (more = next_element(s, place)) > 0; place++)
            if (!skip(s, depth + 1)) return 0;
        return !more;
    case 't': return begins(s, "true", 4);
    case 'f': return begins(s, "false", 5);
    case 'n': return begins(s, "null", 4);
    default: return (s->at = behind_unread_number(s->at, s->end)) != NULL;
    }
}

/* Numbers of a node's slots, alone or in arrays that are `within` so many; 0 where there is something else. */
static int numbers(Scan *s, const Node *node, int arrays, int within, int depth) {
    double value = 0;
    if (s->at >= s->end || depth > DEPTH) return 0;
    if (*s->at == '[') {
        int64_t place = 0;
        int more;
        if (within >= AXES) return 0;
        s->at++;
        for (; (more = next_element(s, place)) > 0; place++)
            if (!numbers(s, node, arrays, within + 1, depth + 1)) return 0;
        if (more) return 0;
        for (int i = 0; i < node->n_slots; i++) {
            const Slot *slot = &s->of->slots[node->slots[i]];
            if (slot->kind == NUMBERS && is_taken(s, slot, arrays) &&
                !has_length(&s->found[node->slots[i]], slot->axes + within, place))
                return 0;
        }
        return 1;
    }
    if (*s->at == 't' || *s->at == 'f') {
        value = *s->at == 't';
        if (!begins(s, value ? "true" : "false", value ? 4 : 5)) return 0;
    } else if (!(s->at = behind_number(s->at, s->end, &value))) {
        return 0;
    }
    for (int i = 0; i < node->n_slots; i++) {
        const Slot *slot = &s->of->slots[node->slots[i]];
        if (slot->kind == NUMBERS && is_taken(s, slot, arrays) &&
            !add(&s->found[node->slots[i]], value, slot->axes + within))
            return 0;
    }
    return 1;
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

static int value(Scan *s, int32_t number, int arrays, int depth);

static int members(Scan *s, const Node *node, int arrays, int depth) {
    uint64_t seen = 0;
    const char *name;
    Py_ssize_t size;
    int more, escapes;
    s->at++;
    for (int first = 1; (more = next_name(s, first, &name, &size, &escapes)) > 0; first = 0) {
        int32_t next = -1;
        if (escapes) return 0;
        for (int i = 0; i < node->n_members && next < 0; i++) {
            const Member *member = &node->members[i];
            if (member->size != size || memcmp(member->name, name, (size_t)size)) continue;
            if (seen & (uint64_t)1 << i) return 0;
            seen |= (uint64_t)1 << i;
            next = member->node;
        }
        if (next < 0 && s->of->any_case && may_be_read(node, name, size)) return 0;
        if (!(next < 0 ? skip(s, depth + 1) : value(s, next, arrays, depth + 1))) return 0;
    }
    return !more;
}

static int elements(Scan *s, const Node *node, int arrays, int depth) {
    int64_t place = 0;
    int more;
    s->at++;
    for (; (more = next_element(s, place)) > 0; place++) {
        s->places[arrays] = place;
        for (int i = 0; i < node->n_within; i++) {
            const Slot *slot = &s->of->slots[node->within[i]];
            if (slot->n_takes > arrays && slot->takes[arrays] == LAST && is_taken(s, slot, arrays))
                forget(&s->found[node->within[i]]);
        }
        if (!value(s, node->element, arrays + 1, depth + 1)) return 0;
    }
    if (more) return 0;
    for (int i = 0; i < node->n_within; i++) {
        const Slot *slot = &s->of->slots[node->within[i]];
        Found *found = &s->found[node->within[i]];
        if (!is_taken(s, slot, arrays)) continue;
        if (slot->n_takes > arrays) {
            int axis = 0;
            for (int j = 0; j < arrays; j++) axis += slot->takes[j] == ANY;
            if (slot->kind == NUMBERS && slot->takes[arrays] == ANY && !has_length(found, axis, place)) return 0;
        } else if (slot->kind == COUNT) {
            found->count = place;
            found->is_there = 1;
        } else if (slot->kind == PRESENCE && place) {
            found->is_there = 1;
        }
    }
    return 1;
}

/* Note that there is a value for the node's slots of PRESENCE. */
static int noted(Scan *s, const Node *node, int arrays, int is_there) {
    for (int i = 0; is_there && i < node->n_slots; i++) {
        const Slot *slot = &s->of->slots[node->slots[i]];
        if (slot->kind == PRESENCE && is_taken(s, slot, arrays)) s->found[node->slots[i]].is_there = 1;
    }
    return 1;
}

/* Read the value at a node, behind so many arrays; 0 where msgspec has to read the document. */
static int value(Scan *s, int32_t number, int arrays, int depth) {
    const Node *node = &s->of->nodes[number];
    const char *from = s->at;
    int escapes = 0;
    if (s->at >= s->end || depth > DEPTH) return 0;
    if (!node->n_members && node->element < 0 && !node->numbers && !node->texts)
        return skip(s, depth) && noted(s, node, arrays, is_filled(from, s->at - from));
    if (*from == 'n') return !node->is_element && begins(s, "null", 4);
    if (*from == '{') return node->n_members && members(s, node, arrays, depth) && noted(s, node, arrays, 1);
    if (*from == '[' && node->element >= 0) return elements(s, node, arrays, depth);
    if (*from == '"') {
        if (!node->texts || !(s->at = behind_string(from + 1, s->end, &escapes)) || escapes) return 0;
        for (int i = 0; i < node->n_slots; i++) {
            Found *found = &s->found[node->slots[i]];
            if (s->of->slots[node->slots[i]].kind != TEXT || !is_taken(s, &s->of->slots[node->slots[i]], arrays)) continue;
            found->text = from + 1;
            found->size = s->at - from - 2;
        }
        return 1;
    }
    return node->numbers && numbers(s, node, arrays, 0, depth);
}
#endif
