/*
 * What a chain of a virtqueue carries: its bytes, gathered from and scattered to its buffers, and in words
 * what can be wrong with one. The buffers were checked when the chain was taken (queue.c). This room calls
 * nothing.
 *
 * Rules: virtio 1.2, section 2.7.4 (message framing): how a request is cut into buffers is the driver's
 * choice and means nothing, so a device addresses bytes and not buffers.
 */
#include <string.h>

#include "device/virtio/queue.h"

static const char *const error_texts[HV_VIRTQ_ERRORS] = {
	[HV_VIRTQ_OK] = "nothing wrong",
	[HV_VIRTQ_BAD_SIZE] = "a size that is no power of two up to 256",
	[HV_VIRTQ_MISALIGNED] = "a ring or table that isn't aligned",
	[HV_VIRTQ_AREA_OUTSIDE] = "a ring or table outside memory",
	[HV_VIRTQ_IDX_JUMPED] = "an available index that is ahead by more than the queue's size",
	[HV_VIRTQ_BAD_HEAD] = "a chain that starts outside the descriptor table",
	[HV_VIRTQ_BAD_NEXT] = "a chain that goes on outside its descriptor table",
	[HV_VIRTQ_LOOP] = "a descriptor chain that loops",
	[HV_VIRTQ_TOO_LONG] = "a chain of more than 256 buffers or of 4 GiB",
	[HV_VIRTQ_EMPTY_BUFFER] = "a buffer of no bytes",
	[HV_VIRTQ_BUFFER_OUTSIDE] = "a buffer outside memory",
	[HV_VIRTQ_OUT_OF_ORDER] = "a buffer to read behind one to write",
	[HV_VIRTQ_NOT_NEGOTIATED] = "an indirect descriptor that was not negotiated",
	[HV_VIRTQ_NESTED] = "an indirect descriptor inside an indirect table",
	[HV_VIRTQ_INDIRECT_NEXT] = "an indirect descriptor with another one behind it",
	[HV_VIRTQ_TABLE_LENGTH] = "an indirect table whose length is no positive multiple of 16",
	[HV_VIRTQ_TABLE_OUTSIDE] = "an indirect table outside memory",
	[HV_VIRTQ_BAD_REQUEST] = "a request that makes no sense",
};

const char *hv_virtq_error_text(enum hv_virtq_error error)
{
	return (unsigned)error < HV_VIRTQ_ERRORS ? error_texts[error] : "an unknown error";
}

/* Copies between buf and the buffers, from byte `at` of them on. */
static size_t copy(const struct iovec *buffers, unsigned count, size_t at, uint8_t *buf, size_t length,
		   bool into_guest)
{
	size_t copied = 0;

	for (unsigned i = 0; i < count && copied < length; i++) {
		size_t size = buffers[i].iov_len, n;
		uint8_t *guest = buffers[i].iov_base;

		if (at >= size) {
			at -= size;
			continue;
		}
		n = size - at < length - copied ? size - at : length - copied;
		if (into_guest)
			memcpy(guest + at, buf + copied, n);
		else
			memcpy(buf + copied, guest + at, n);
		copied += n;
		at = 0;
	}
	return copied;
}

size_t hv_virtq_read(const struct hv_virtq_chain *chain, size_t at, void *buf, size_t length)
{
	return copy(chain->buffers, chain->readable, at, buf, length, false);
}

size_t hv_virtq_write(const struct hv_virtq_chain *chain, size_t at, const void *buf, size_t length)
{
	/* Not written to: only one of the two directions takes it as a destination. */
	return copy(chain->buffers + chain->readable, chain->count - chain->readable, at,
		    (uint8_t *)(uintptr_t)buf, length, true); // NOLINT(performance-no-int-to-ptr)
}
