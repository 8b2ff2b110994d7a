/*
 * Fuzz target: bytes from a client, as the control socket gets them: the scanner, the requests, the commands
 * that work without a machine, and the lines that a person types.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control/monitor.h"
#include "control/qmp.h"
#include "control/qmp_dispatch.h"
#include "control/qmp_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses in what pieces the rest arrives. */
static void as_socket(const uint8_t *data, size_t size)
{
	struct hv_qmp_session session;
	struct hv_qmp_scan scan;
	size_t step = size ? data[0] % 61u + 1 : 1, length;
	const char *text;
	int rc = 0;

	hv_qmp_session_init(&session, NULL);
	session.negotiated = size && data[0] & 0x80;
	hv_qmp_scan_init(&scan, 4096);
	for (size_t at = 1; at < size && rc >= 0; at += step) {
		if (hv_qmp_scan_feed(&scan, data + at, size - at < step ? size - at : step))
			break;
		while ((rc = hv_qmp_scan_next(&scan, &text, &length)) == 1) {
			json_t *response = hv_qmp_respond(&session, text, length);

			if (!json_is_object(response))
				abort(); /* every document has an answer */
			json_decref(response);
		}
	}
	hv_qmp_scan_free(&scan);
	hv_qmp_session_free(&session);
}

static void as_line(const uint8_t *data, size_t size)
{
	struct hv_monitor_request r;
	char *line = malloc(size + 1), *text;
	json_t *result;

	if (!line)
		return;
	memcpy(line, data, size);
	line[size] = '\0';
	if (hv_monitor_parse(line, &r, NULL) == 0) {
		/* What a VM could answer is hostile too: the line itself, when it is JSON. */
		result = json_loadb((const char *)data, size, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, NULL);
		text = hv_monitor_text(&r, result ? result : r.arguments);
		free(text);
		json_decref(result);
	}
	hv_monitor_free(&r);
	free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_socket(data, size);
	as_line(data, size);
	return 0;
}
