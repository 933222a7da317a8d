/* Reads every chunk of an array into its final place: what any engine has to do, and no more.
 *
 * Every thread takes the next chunk until none is left. A chunk is a range of a file: files of one
 * chunk are opened here, shards were opened by an earlier pass (find_ranges), which is part of the
 * time. Decoders are addresses of functions of the libraries that Python loads as well. Chunks that
 * are contiguous in the output are read or decoded there, others go through a scratch buffer that
 * each thread keeps; uncompressed ones in pieces that fit into the second-level cache.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NONE, ZSTD, BLOSC, LZ4, GZIP_ISAL, GZIP_ZLIB };
enum { PIECE = 256 << 10 };

typedef struct {
    int codec, threads, rank;
    int64_t files, per_file, chunk_nbytes, itemsize;
    const char *const *paths;    /* one per file */
    const int64_t *offsets;      /* of each chunk in the output, in bytes */
    const int64_t *chunk_shape;  /* innermost last */
    const int64_t *strides;      /* of the output, in bytes */
    char *out;
    void *create, *destroy, *decode; /* functions of the codec's library */
} job_t;

typedef struct {
    const job_t *job;
    int64_t next;           /* chunk, taken atomically */
    int *descriptors;       /* of shards */
    uint64_t *ranges;       /* offset and nbytes of each inner chunk */
    int status;
} state_t;

typedef struct {
    char *decoded, *stored;
    size_t room;
    void *context;
} scratch_t;

/* -- decoders: 0 when exactly `n` bytes were written ------------------------------------------- */

/* The first members of ISA-L's inflate_state, which its users fill in; the rest is private. */
typedef struct {
    uint8_t *next_out;
    uint32_t avail_out, total_out;
    uint8_t *next_in;
    uint64_t read_in;
    uint32_t avail_in;
    int32_t read_in_length;
} isal_t;
enum { ISAL_ROOM = 1 << 20 }; /* more than sizeof(struct inflate_state) */

/* The members of zlib's z_stream that come before the private ones. */
typedef struct {
    const uint8_t *next_in;
    unsigned avail_in;
    unsigned long total_in;
    uint8_t *next_out;
    unsigned avail_out;
    unsigned long total_out;
    char more[128];
} zlib_t;

static int inflate_isal(const job_t *job, void *state, const char *in, size_t nin, char *out, size_t n)
{
    if (nin < 18 || in[3] != 0) /* no optional members in the headers of our own files */
        return -1;
    isal_t *isal = state;
    ((void (*)(void *))job->create)(state);
    isal->next_in = (uint8_t *)in + 10;
    isal->avail_in = (uint32_t)(nin - 10);
    isal->next_out = (uint8_t *)out;
    isal->avail_out = (uint32_t)n;
    int status = ((int (*)(void *))job->decode)(state);
    return status == 0 && isal->total_out == n ? 0 : -1;
}

static int inflate_zlib(const job_t *job, const char *in, size_t nin, char *out, size_t n)
{
    zlib_t z;
    memset(&z, 0, sizeof z);
    int (*init)(void *, int, const char *, int) = (int (*)(void *, int, const char *, int))job->create;
    if (init(&z, 31, "1", 112) != 0) /* gzip wrapper; sizeof(z_stream) on 64-bit systems */
        return -1;
    z.next_in = (const uint8_t *)in;
    z.avail_in = (unsigned)nin;
    z.next_out = (uint8_t *)out;
    z.avail_out = (unsigned)n;
    int status = ((int (*)(void *, int))job->decode)(&z, 4); /* Z_FINISH */
    ((int (*)(void *))job->destroy)(&z);
    return status == 1 && z.total_out == n ? 0 : -1;
}

static size_t load32(const char *at)
{
    const uint8_t *p = (const uint8_t *)at;
    return p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

static int decode(const job_t *job, scratch_t *scratch, const char *in, size_t nin, char *out)
{
    size_t n = (size_t)job->chunk_nbytes;
    switch (job->codec) {
    case ZSTD:
        return ((size_t (*)(void *, void *, size_t, const void *, size_t))job->decode)(
                   scratch->context, out, n, in, nin) == n ? 0 : -1;
    case BLOSC: /* it trusts the sizes in the header, which are little-endian */
        if (nin < 16 || load32(in + 4) != n || load32(in + 12) != nin)
            return -1;
        return ((int (*)(const void *, void *, size_t, int))job->decode)(in, out, n, 1) == (int)n ? 0 : -1;
    case LZ4: /* numcodecs puts the decoded size before the block */
        return nin > 4 && ((int (*)(const char *, char *, int, int))job->decode)(
                   in + 4, out, (int)nin - 4, (int)n) == (int)n ? 0 : -1;
    case GZIP_ISAL:
        return inflate_isal(job, scratch->context, in, nin, out, n);
    case GZIP_ZLIB:
        return inflate_zlib(job, in, nin, out, n);
    default:
        return -1;
    }
}

/* -- placing ----------------------------------------------------------------------------------- */

/* Bytes of a chunk that are contiguous in the output from any of its innermost rows on. */
static int64_t run_nbytes(const job_t *job)
{
    int64_t run = job->itemsize;
    for (int axis = job->rank - 1; axis >= 0; axis--) {
        if (job->strides[axis] != run)
            break;
        run *= job->chunk_shape[axis];
    }
    return run;
}

/* Copy n bytes of a chunk, from position `at` of it on; both are multiples of the run. */
static void place(const job_t *job, const char *in, char *out, int64_t at, int64_t n, int64_t run)
{
    int64_t inner = run, first = job->rank; /* the axes before `first` are not contiguous */
    for (int64_t size = job->itemsize; first > 0 && size < inner; first--)
        size *= job->chunk_shape[first - 1];
    for (; n > 0; n -= run, at += run, in += run) {
        int64_t rest = at / run, offset = 0;
        for (int64_t axis = first - 1; axis >= 0; axis--) {
            offset += rest % job->chunk_shape[axis] * job->strides[axis];
            rest /= job->chunk_shape[axis];
        }
        memcpy(out + offset, in, (size_t)run);
    }
}

static int read_fully(int fd, char *out, size_t n, off_t offset)
{
    while (n > 0) {
        ssize_t got = pread(fd, out, n, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        out += got, n -= (size_t)got, offset += got;
    }
    return 0;
}

static int read_chunk(const job_t *job, scratch_t *scratch, int fd, off_t offset, size_t nbytes, char *out)
{
    int64_t run = run_nbytes(job);
    int contiguous = run == job->chunk_nbytes;
    if (job->codec == NONE) {
        if (nbytes != (size_t)job->chunk_nbytes)
            return -1;
        if (contiguous)
            return read_fully(fd, out, nbytes, offset);
        int64_t piece = run >= PIECE ? run : PIECE / run * run;
        for (int64_t at = 0; at < job->chunk_nbytes; at += piece) {
            int64_t n = job->chunk_nbytes - at < piece ? job->chunk_nbytes - at : piece;
            if (read_fully(fd, scratch->decoded, (size_t)n, offset + at))
                return -1;
            place(job, scratch->decoded, out, at, n, run);
        }
        return 0;
    }
    if (scratch->room < nbytes) {
        free(scratch->stored);
        scratch->room = nbytes + nbytes / 4;
        scratch->stored = malloc(scratch->room);
        if (!scratch->stored)
            return -1;
    }
    if (read_fully(fd, scratch->stored, nbytes, offset))
        return -1;
    if (contiguous)
        return decode(job, scratch, scratch->stored, nbytes, out);
    if (decode(job, scratch, scratch->stored, nbytes, scratch->decoded))
        return -1;
    place(job, scratch->decoded, out, 0, job->chunk_nbytes, run);
    return 0;
}

/* -- threads ----------------------------------------------------------------------------------- */

static int whole_file(state_t *state, scratch_t *scratch, int64_t i)
{
    const job_t *job = state->job;
    struct stat info;
    int fd = open(job->paths[i], O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int status = fstat(fd, &info);
    if (status == 0)
        status = read_chunk(job, scratch, fd, 0, (size_t)info.st_size, job->out + job->offsets[i]);
    close(fd);
    return status;
}

static int inner_chunk(state_t *state, scratch_t *scratch, int64_t i)
{
    const job_t *job = state->job;
    const uint64_t *range = state->ranges + 2 * i;
    return read_chunk(job, scratch, state->descriptors[i / job->per_file], (off_t)range[0],
                      (size_t)range[1], job->out + job->offsets[i]);
}

static void *work(void *argument)
{
    state_t *state = argument;
    const job_t *job = state->job;
    scratch_t scratch = {0};
    int64_t i, total = job->files * job->per_file;
    int failed = 0;
    scratch.decoded = malloc((size_t)job->chunk_nbytes);
    if (job->codec == ZSTD)
        scratch.context = ((void *(*)(void))job->create)();
    if (job->codec == GZIP_ISAL)
        scratch.context = malloc(ISAL_ROOM);
    if (!scratch.decoded || ((job->codec == ZSTD || job->codec == GZIP_ISAL) && !scratch.context))
        failed = 1;
    while (!failed && (i = __atomic_fetch_add(&state->next, 1, __ATOMIC_RELAXED)) < total)
        failed = state->ranges ? inner_chunk(state, &scratch, i) : whole_file(state, &scratch, i);
    if (failed)
        __atomic_store_n(&state->status, -1, __ATOMIC_RELAXED);
    if (job->codec == ZSTD && scratch.context)
        ((size_t (*)(void *))job->destroy)(scratch.context);
    if (job->codec == GZIP_ISAL)
        free(scratch.context);
    free(scratch.decoded);
    free(scratch.stored);
    return NULL;
}

/* Open all shards and read their indexes: ranges, then a checksum, at the end of the file. */
static int find_ranges(state_t *state)
{
    const job_t *job = state->job;
    size_t nbytes = (size_t)job->per_file * 16;
    state->ranges = malloc(nbytes * (size_t)job->files);
    state->descriptors = malloc(sizeof(int) * (size_t)job->files);
    if (!state->ranges || !state->descriptors)
        return -1;
    for (int64_t i = 0; i < job->files; i++)
        state->descriptors[i] = -1;
    for (int64_t i = 0; i < job->files; i++) {
        int fd = state->descriptors[i] = open(job->paths[i], O_RDONLY | O_CLOEXEC);
        struct stat info;
        if (fd < 0 || fstat(fd, &info) || (size_t)info.st_size < nbytes + 4)
            return -1;
        char *into = (char *)state->ranges + (size_t)i * nbytes;
        if (read_fully(fd, into, nbytes, info.st_size - 4 - (off_t)nbytes))
            return -1;
    }
    return 0;
}

int read_all(const job_t *job)
{
    state_t state = {.job = job};
    pthread_t threads[64];
    int started = 0;
    if (job->per_file > 1)
        state.status = find_ranges(&state);
    if (state.status == 0) {
        for (; started < job->threads - 1 && started < 64; started++)
            if (pthread_create(&threads[started], NULL, work, &state))
                break;
        work(&state);
        while (started > 0)
            pthread_join(threads[--started], NULL);
    }
    for (int64_t i = 0; state.descriptors && i < job->files; i++)
        if (state.descriptors[i] >= 0)
            close(state.descriptors[i]);
    free(state.descriptors);
    free(state.ranges);
    return state.status;
}
