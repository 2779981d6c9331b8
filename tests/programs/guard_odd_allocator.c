/* An allocator that is preloaded behind the guard, and is as inconvenient as they come: its malloc
 * is chosen by a resolver that allocates while it is asked, it has no malloc_usable_size, and its
 * free sets errno. */
#include <errno.h>
#include <stdlib.h>

static _Alignas(16) char heap[256 << 20];
static size_t used;
void *made_while_resolving;

/* Before each object. An object of somebody else is told by it, as a real allocator's would. */
struct header {
	size_t mark, size;
};
#define MARK 0x6f6464616c6c6f63ul

static size_t size_of(void *object)
{
	struct header *header = (struct header *)object - 1;

	if (header->mark != MARK)
		abort();
	return header->size;
}

static void *mark(char *at, size_t size)
{
	struct header *header = (struct header *)at - 1;

	header->mark = MARK;
	header->size = size;
	return at;
}

static void *bump(size_t size)
{
	size_t need = ((size + 15) & ~(size_t)15) + 16;
	size_t at = __atomic_fetch_add(&used, need, __ATOMIC_RELAXED);

	if (size > sizeof heap || at + need > sizeof heap) {
		errno = ENOMEM;
		return NULL;
	}
	return mark(heap + at + 16, size);
}

void *malloc(size_t size);
void *realloc(void *object, size_t size);

static void *(*choose(void))(size_t)
{
	/* Comes back through the guard, which is looking for this very function. */
	char *object = malloc(160);

	if (object) {
		object[0] = 'x';
		object[159] = 'y';
	}
	made_while_resolving = object;
	return bump;
}

void *malloc(size_t size) __attribute__((ifunc("choose")));

void free(void *object)
{
	if (object)
		size_of(object);
	errno = EBADMSG;
}

void *calloc(size_t count, size_t size)
{
	/* Never reused, so zero already. */
	return bump(count * size);
}

void *realloc(void *object, size_t size)
{
	char *from = object, *to = bump(size);
	size_t old = object ? size_of(object) : 0;

	for (size_t i = 0; to && i < old && i < size; i++)
		to[i] = from[i];
	return to;
}

static void *aligned(size_t align, size_t size)
{
	char *object = bump(size + align + 16);
	size_t at = ((size_t)object + align + 15) / align * align;

	return mark((char *)at, size);
}

void *memalign(size_t align, size_t size) { return aligned(align, size); }
void *aligned_alloc(size_t align, size_t size) { return aligned(align, size); }

int posix_memalign(void **out, size_t align, size_t size)
{
	*out = aligned(align, size);
	return 0;
}
