/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests here call of the kernel's own selftest library, where it has it
 * otherwise. Each kernel has a file of this name of its own; the tests are written
 * for this one's library.
 */
#ifndef SELFTEST_KVM_UTIL_GLUE_H
#define SELFTEST_KVM_UTIL_GLUE_H

#include "kvm_util.h"
#include "processor.h"

#endif /* SELFTEST_KVM_UTIL_GLUE_H */
