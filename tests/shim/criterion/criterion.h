/*
 * A stand-in for Criterion under ThreadSanitizer, which forbids the address range where Criterion's sandbox
 * puts its arena. It knows the part of Criterion that hvkit's tests use: Test and TestSuite with their common
 * options, the cr_assert family, cr_fail, cr_skip_test, cr_log_info. Every test runs in a child of its own,
 * with a time limit, and the summary has Criterion's form, so tests/run reads both alike.
 */
#ifndef HV_SHIM_CRITERION_H
#define HV_SHIM_CRITERION_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shim_options {
	void (*init)(void);
	void (*fini)(void);
	int signal, exit_code;
	double timeout;
	bool disabled;
	const char *description;
};

struct shim_test {
	const char *suite, *name;
	void (*body)(void); /* NULL: the options of a suite */
	struct shim_options options;
	struct shim_test *next;
};

void shim_add(struct shim_test *test);
void shim_check(bool ok, bool fatal, const char *file, int line, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
void shim_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#define SHIM_ADD(id, s, n, b, ...)                                                                           \
	static struct shim_test shim_test_##id = {                                                           \
		.suite = s, .name = n, .body = b, .options = {__VA_ARGS__}};                                 \
	__attribute__((constructor)) static void shim_add_##id(void)                                         \
	{                                                                                                    \
		shim_add(&shim_test_##id);                                                                   \
	}

#define Test(suite, name, ...)                                                                               \
	static void shim_body_##suite##_##name(void);                                                        \
	SHIM_ADD(suite##_##name, #suite, #name, shim_body_##suite##_##name, __VA_ARGS__)                     \
	static void shim_body_##suite##_##name(void)

#define TestSuite(suite, ...)                                                                                \
	SHIM_ADD(suite##_suite, #suite, NULL, NULL, __VA_ARGS__)                                             \
	extern int shim_semicolon

#define SHIM(cond, fatal, text, ...) shim_check(cond, fatal, __FILE__, __LINE__, text, " " __VA_ARGS__)
#define SHIM_STR(a, op, b)           (strcmp((a), (b)) op 0)

#define cr_assert(c, ...)               SHIM(!!(c), true, #c, __VA_ARGS__)
#define cr_assert_not(c, ...)           SHIM(!(c), true, "not " #c, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)         SHIM((a) == (b), true, #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)        SHIM((a) != (b), true, #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)         SHIM((a) < (b), true, #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)        SHIM((a) <= (b), true, #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)         SHIM((a) > (b), true, #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)        SHIM((a) >= (b), true, #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...)          SHIM((p) == NULL, true, #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...)      SHIM((p) != NULL, true, #p " is not NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)     SHIM(SHIM_STR(a, ==, b), true, #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)    SHIM(SHIM_STR(a, !=, b), true, #a " differs from " #b, __VA_ARGS__)
#define cr_assert_str_empty(a, ...)     SHIM((a)[0] == '\0', true, #a " is empty", __VA_ARGS__)
#define cr_assert_str_not_empty(a, ...) SHIM((a)[0] != '\0', true, #a " is not empty", __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)  SHIM(memcmp((a), (b), (n)) == 0, true, #a " equals " #b, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...)                                                                      \
	SHIM(memcmp((a), (b), (n)) != 0, true, #a " differs from " #b, __VA_ARGS__)
#define cr_assert_fail(...)             SHIM(false, true, "fail", __VA_ARGS__)
#define cr_expect(c, ...)               SHIM(!!(c), false, #c, __VA_ARGS__)
#define cr_expect_not(c, ...)           SHIM(!(c), false, "not " #c, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)         SHIM((a) == (b), false, #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)        SHIM((a) != (b), false, #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)         SHIM((a) < (b), false, #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)        SHIM((a) <= (b), false, #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)         SHIM((a) > (b), false, #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)        SHIM((a) >= (b), false, #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(p, ...)          SHIM((p) == NULL, false, #p " is NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...)      SHIM((p) != NULL, false, #p " is not NULL", __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)     SHIM(SHIM_STR(a, ==, b), false, #a " equals " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)    SHIM(SHIM_STR(a, !=, b), false, #a " differs from " #b, __VA_ARGS__)
#define cr_expect_str_empty(a, ...)     SHIM((a)[0] == '\0', false, #a " is empty", __VA_ARGS__)
#define cr_expect_str_not_empty(a, ...) SHIM((a)[0] != '\0', false, #a " is not empty", __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...)  SHIM(memcmp((a), (b), (n)) == 0, false, #a " equals " #b, __VA_ARGS__)
#define cr_fatal(...)                   SHIM(false, true, "fail", __VA_ARGS__)
#define cr_fail(...)                    SHIM(false, false, "fail", __VA_ARGS__)
#define cr_skip(...)                    shim_skip(" " __VA_ARGS__)
#define cr_skip_test(...)               shim_skip(" " __VA_ARGS__)
#define cr_log_info(...)                fprintf(stderr, __VA_ARGS__)
#define cr_log_warn(...)                fprintf(stderr, __VA_ARGS__)
#define cr_log_error(...)               fprintf(stderr, __VA_ARGS__)
#define cr_log(level, ...)              fprintf(stderr, __VA_ARGS__)

#endif
