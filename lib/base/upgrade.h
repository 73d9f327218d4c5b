/* The text of an HTTP/1.1 upgrade, for the two who ask for one: the command line and a daemon that
 * sends a stream on to another. What answers them is lib/http, so only its forms are read here. */
#ifndef BLIX_BASE_UPGRADE_H
#define BLIX_BASE_UPGRADE_H

#include "base/buf.h"
#include "base/error.h"

#define UPGRADE_PROTOCOL "blix-stream/1"

/* The head of an answer. */
struct upgrade_head {
	int status;            /* 101: frames follow */
	size_t content_length; /* of the body of another status */
	size_t n;              /* bytes of the head */
};

/* Appends the request: POST `path` with a JSON body ("" for none) and one more header ("Name:
 * value", NULL: none). */
int upgrade_ask(struct buf *out, const char *path, const char *header, const char *body);
/* 1 and *ret when `bytes` begin with a whole head, 0 when more are needed, -BLIX_E_INTERNAL for
 * what is no such answer. */
int upgrade_read(const char *bytes, size_t n, struct upgrade_head *ret, struct blix_error *err);

#endif
