// The bridge to Intel's Multi-Buffer Crypto for IPsec. The library is opened when it is wanted, so that
// nothing is missing where it is not installed. It has no calls by name: a manager is a structure of
// functions, whose layout is that of the header's version, and only that version is used.

#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <stddef.h>

static IMB_MGR *(*alloc_manager)(uint64_t);
static void (*free_manager)(IMB_MGR *);
static void (*init_manager)(IMB_MGR *, IMB_ARCH *);

// Opens the library for good; 1 if it is there, in the right version.
int ginnel_ipsec_mb_open(void) {
    void *library = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    unsigned (*version)(void) = (unsigned (*)(void))dlsym(library, "imb_get_version");
    alloc_manager = (IMB_MGR * (*)(uint64_t)) dlsym(library, "alloc_mb_mgr");
    free_manager = (void (*)(IMB_MGR *))dlsym(library, "free_mb_mgr");
    init_manager = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(library, "init_mb_mgr_auto");
    return version && version() == IMB_VERSION_NUM && alloc_manager && free_manager && init_manager;
}

// Makes a manager for one thread; NULL without memory or without AVX-512, below which AWS-LC is quicker.
IMB_MGR *ginnel_ipsec_mb_new(void) {
    IMB_ARCH kind = IMB_ARCH_NONE;
    IMB_MGR *manager = alloc_manager(0);
    if (!manager)
        return NULL;
    init_manager(manager, &kind);
    if (kind == IMB_ARCH_AVX512 && (manager->features & IMB_FEATURE_AVX512_IFMA))
        return manager;
    free_manager(manager);
    return NULL;
}

void ginnel_ipsec_mb_free(IMB_MGR *manager) { free_manager(manager); }

// Seals or opens `data` in place and writes the tag that belongs to it; 1 if that was done.
int ginnel_ipsec_mb_run(IMB_MGR *manager, int opens, const uint8_t *key, const uint8_t *nonce,
                        const uint8_t *aad, size_t aad_size, uint8_t *data, size_t size, uint8_t *tag) {
    IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
    job->cipher_direction = opens ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
    job->chain_order = opens ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->enc_keys = key;
    job->dec_keys = key;
    job->key_len_in_bytes = 32;
    job->iv = nonce;
    job->iv_len_in_bytes = 12;
    job->u.CHACHA20_POLY1305.aad = aad;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = aad_size;
    job->src = data;
    job->dst = data;
    job->cipher_start_src_offset_in_bytes = 0;
    job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_cipher_in_bytes = size;
    job->msg_len_to_hash_in_bytes = size;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = 16;
    job = IMB_SUBMIT_JOB_NOCHECK(manager);
    // This cipher is done at once; were it queued one day, nothing may be left that points at `data`.
    while (!job && IMB_QUEUE_SIZE(manager) > 0)
        job = IMB_FLUSH_JOB(manager);
    return job && job->status == IMB_STATUS_COMPLETED;
}
