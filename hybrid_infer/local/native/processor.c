/* Linux lends the tiles' registers to processes that ask (Documentation/arch/x86/xstate.rst). */
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* What the library was compiled from: see scripts/build_native.py. */
const char *compiled_sources(void)
{
    return SOURCES;
}

/* 0 if this process may use tiles. */
int request_tiles(void)
{
    return (int)syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}
