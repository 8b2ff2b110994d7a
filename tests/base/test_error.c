/*
 * The error room: a sentence always fits, keeps its reason, and survives being built from itself.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"

Test(error, fail_returns_the_negative_errno_and_fills_the_sentence)
{
	struct hv_error err = {0};

	cr_assert_eq(hv_fail(&err, ENOENT, "%s: not there", "disk.img"), -ENOENT);
	cr_assert_eq(err.code, -ENOENT);
	cr_assert_eq(err.status, HV_EXIT_FAILED);
	cr_assert_str_eq(err.text, "disk.img: not there");
}

Test(error, each_kind_has_its_exit_status)
{
	struct hv_error err = {0};

	cr_assert_eq(hv_fail_usage(&err, "wrong"), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_eq(hv_fail_unsafe(&err, "damaged"), -EBADMSG);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
}

Test(error, a_caller_without_interest_gives_null)
{
	errno = EPERM;
	cr_assert_eq(hv_fail_errno(NULL, "x"), -EPERM);
	cr_assert_eq(hv_fail(NULL, EIO, "x"), -EIO);
	hv_error_prefix(NULL, "x");
}

Test(error, errno_is_told_in_words_even_behind_a_long_object)
{
	struct hv_error err = {0};
	char path[1000];

	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	errno = EACCES;
	cr_assert_eq(hv_fail_errno(&err, "%s: cannot open it", path), -EACCES);
	cr_assert(strstr(err.text, strerror(EACCES)) != NULL, "got '%s'", err.text);
}

Test(error, a_forgotten_errno_is_still_an_error)
{
	struct hv_error err = {0};

	errno = 0;
	cr_assert_eq(hv_fail_errno(&err, "x"), -EIO);
}

Test(error, a_sentence_may_be_built_from_the_one_before)
{
	struct hv_error err = {0};

	hv_fail(&err, EIO, "inner");
	hv_fail(&err, EIO, "outer: %s", err.text);
	cr_assert_str_eq(err.text, "outer: inner");
}

Test(error, a_prefix_leaves_the_reason_whole)
{
	struct hv_error err = {0};
	char reason[301];

	memset(reason, 'r', sizeof(reason) - 1);
	reason[sizeof(reason) - 1] = '\0';
	hv_fail(&err, EIO, "%s", reason);
	hv_error_prefix(&err, "vm %d", 7);
	cr_assert_eq(strncmp(err.text, "vm 7: ", 6), 0);
	cr_assert_str_eq(err.text + 6, reason);
	cr_assert_eq(err.code, -EIO);
}

Test(error, prefixes_without_end_stay_inside)
{
	struct hv_error err = {0};

	hv_fail(&err, EIO, "reason");
	for (int i = 0; i < 1000; i++)
		hv_error_prefix(&err, "a rather long object that is named again and again, number %d", i);
	cr_assert_lt(strlen(err.text), sizeof(err.text));
}
