/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tests share that come with a stand-in for the ultravisor */
#ifndef SECURE_GUEST_UV_H
#define SECURE_GUEST_UV_H

#include <pthread.h>

#include "secure_guest_lib.h"
#include "uv_stand_in.h"

#define UV_REGISTER_MEM_SLOT	0xf120
#define UV_PAGE_IN		0xf128
#define UV_PAGE_OUT		0xf12c
#define UV_SVM_TERMINATE	0xf13c
#define U_PERMISSION		(-11)

/* Guest memory: the code is in page 0, and a second slot further up. */
#define PAGES			8
#define PAGES2			4
#define GPA2			(32 * PAGE_BYTES)
#define GPA3			(48 * PAGE_BYTES)
#define SEED			0x1000000
#define SEED2			0x2000000

/* The stand-in's file, from load_stand_in() */
extern int uv;

/* What the dispatcher answers to @nr, made by one of UV_STAND_IN_{GUEST,UV,...} */
int64_t hcall(struct vm *vm, unsigned int who, uint64_t nr, uint64_t a,
	      uint64_t b, uint64_t c);
int64_t start(struct vm *vm);
int64_t done(struct vm *vm);
/* The guest's own; the ultravisor's, which has given the VM up. */
int64_t guest_abort(struct vm *vm);
int64_t init_abort(struct vm *vm);
int64_t page_in(struct vm *vm, uint64_t gpa);
int64_t page_out(struct vm *vm, uint64_t gpa);
int64_t share(struct vm *vm, uint64_t gpa);
/* 0, or errno */
int svm_off(struct vm *vm);

/* @pass calls go through, then @count of them fail. */
void fail(uint64_t nr, unsigned int pass, unsigned int count);
void pin(uint32_t on);
/* What @action is and does, see uv_stand_in.h. False if there is no @symbol. */
bool point(const char *symbol, unsigned int action, unsigned int pass,
	   unsigned int count, int64_t result);
/* Hold a call of the ultravisor of number @nr. */
void hold_call(uint64_t nr);
void wait_held(void);
void release(void);
struct uv_stand_in_stats stats(struct vm *vm);
struct uv_stand_in_gfn gfn(struct vm *vm, uint64_t gpa);
/* Stale memory of the kernel is what this thread's allocations get next. */
void scribble(void);

/* How much is in use for @vm, and that nothing is locked */
bool in_use(struct vm *vm, unsigned int slots, unsigned int pages);

/* Each page of the guest has a content of its own. */
void fill(char *mem, unsigned int pages, unsigned int seed);
bool holds(const char *mem, unsigned int first, unsigned int pages,
	   unsigned int seed);
/* The same as ciphertext, with @mem at guest address @gpa */
bool holds_cipher(const char *mem, uint64_t gpa, unsigned int first,
		  unsigned int pages, unsigned int seed);
bool is_zero(const char *mem, unsigned int pages);

/* A VM for which it is allowed, or not */
void create(struct vm *vm, bool enable);
/* A VM that has started, with two slots. The second one's memory. */
char *create_started(struct vm *vm);
/* A VM that is secure, with all of its memory in secure memory */
char *create_secure(struct vm *vm);
/* What the stand-in was told to do ends with it. */
void destroy(struct vm *vm, char *mem2);

/* Does reading there end in SIGBUS? Neither does a fault without an end. */
bool is_sigbus(const char *p);

/* In a process of its own, as far as its end is not sure. */
bool run_child(bool (*test)(void));
/* Such a case; what counts the cases is each file's own. */
#define in_child(name, test)	ksft_test_result(run_child(test), "%s\n", name)

/* A thread that makes one call */
struct helper {
	pthread_t thread;
	int64_t (*call)(void *arg);
	void *arg;
	int64_t ret;
	int tid;
	bool ended;
};

void help(struct helper *h, int64_t (*call)(void *arg), void *arg);
/* Wait until it has ended, or sleeps in the kernel where no signal wakes it. */
bool is_blocked(struct helper *h);
/* False if it does not come to its end. */
bool join(struct helper *h);

#endif /* SECURE_GUEST_UV_H */
