/* A wire that loses six packets of a hundred, both ways alike: a classifier for tc(8), which needs no module. */
typedef unsigned int u32;

static u32 (*get_prandom_u32)(void) = (void *)7; /* BPF_FUNC_get_prandom_u32 */

enum { TC_ACT_OK = 0, TC_ACT_SHOT = 2, LOST_PERCENT = 6 };

struct __sk_buff;

__attribute__((section("classifier"), used)) int lossy(struct __sk_buff *packet)
{
    (void)packet;
    return get_prandom_u32() % 100 < LOST_PERCENT ? TC_ACT_SHOT : TC_ACT_OK;
}

char permission[] __attribute__((section("license"), used)) = "MIT";
