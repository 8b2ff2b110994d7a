/*
 * The words of --vsock. They may come from a file that someone else wrote, so lengths and numbers are
 * checked. This room calls base.
 */
#include <string.h>

#include "base/parse.h"
#include "machine/config_impl.h"

static int take_cid(struct hv_vsock_spec *spec, const char *word, struct hv_error *err)
{
	int rc;

	if (strncmp(word, "cid=", 4) != 0)
		return hv_fail_usage(
			err, "vsock: '%.64s' is not cid=N; a comma in the socket's path is written twice",
			word);
	rc = hv_parse_u64("vsock: cid", word + 4, HV_VSOCK_CID_MAX, &spec->cid, err);
	if (rc)
		return rc;
	if (spec->cid < HV_VSOCK_CID_MIN)
		return hv_fail_usage(err, "vsock: CIDs 0 to 2 are taken; give the guest one from %llu on",
				     HV_VSOCK_CID_MIN);
	return 0;
}

int hv_vsock_spec_parse(struct hv_vsock_spec *spec, const char *text, struct hv_error *err)
{
	char word[64] = "";
	int rc;

	memset(spec, 0, sizeof(*spec));
	spec->cid = HV_VSOCK_CID_DEFAULT;
	rc = hv_config_take_word("vsock", &text, spec->path, sizeof(spec->path), err);
	if (!rc && spec->path[0] == '\0')
		rc = hv_fail_usage(err, "vsock: the socket's path is empty");
	while (!rc && *text == ',') {
		text++;
		rc = hv_config_take_word("vsock", &text, word, sizeof(word), err);
		if (!rc)
			rc = take_cid(spec, word, err);
	}
	return rc;
}
