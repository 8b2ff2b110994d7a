/*
 * What leaves a library. The libraries are built with hidden visibility; a public header wraps its
 * prototypes in HV_API_BEGIN and HV_API_END, and every name between them starts with hv_.
 */
#ifndef HV_BASE_API_H
#define HV_BASE_API_H

#define HV_API_BEGIN _Pragma("GCC visibility push(default)")
#define HV_API_END   _Pragma("GCC visibility pop")

#define HV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#define HV_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* The structure of type `type` whose member `member` is at `ptr`. */
#define hv_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
