/* The QMP session: see qmp.h. One JSON object a line, in both directions. */
#include "vmm/qmp.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "sys/clock.h"
#include "vmm/address.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define QMP_READ     4096u
#define QMP_RETRY_MS 5 /* between tries while the listener's queue is full */

struct qmp {
	int fd;
	uint64_t deadline_ms;
	struct buf in;
};

static int qmp_time_left(const struct qmp *q)
{
	uint64_t now = clock_boot_ms();

	return q->deadline_ms > now ? (int)(q->deadline_ms - now) : 0;
}

static int qmp_late(struct blix_error *err)
{
	return address_fail(err, BLIX_E_TIMEOUT, REASON_SILENT, "no answer in time");
}

static int qmp_wait(const struct qmp *q, short events, struct blix_error *err)
{
	struct pollfd p = {.fd = q->fd, .events = events};
	int left = qmp_time_left(q);
	int n = left > 0 ? poll(&p, 1, left) : 0;

	if (n < 0 && errno != EINTR)
		return blix_fail_sys(err, errno, "poll");
	return n != 0 ? 0 : qmp_late(err);
}

static int qmp_connect(struct qmp *q, const char *path, struct blix_error *err)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct address a;
	int sys, rc = address_init(&a, path, err);

	if (rc < 0)
		return rc;
	memcpy(to.sun_path, a.path, sizeof(to.sun_path));
	while ((sys = connect(q->fd, (struct sockaddr *)&to, sizeof(to)) < 0 ? errno : 0) ==
	               EAGAIN &&
	       qmp_time_left(q) > 0)
		(void)poll(NULL, 0, QMP_RETRY_MS);
	address_done(&a);
	if (sys == 0)
		return 0;
	return sys == EAGAIN ? qmp_late(err) : address_connect_failed(err, sys);
}

/* Reads what is there, after waiting for it. */
static int qmp_fill(struct qmp *q, struct blix_error *err)
{
	int rc = qmp_wait(q, POLLIN, err);
	char *room;
	ssize_t n;

	if (rc < 0)
		return rc;
	room = buf_room(&q->in, QMP_READ);
	if (room == NULL)
		return address_fail(err, BLIX_E_TOOBIG, REASON_TOO_BIG,
		                    "answer is larger than %u bytes", LIMIT_QMP);
	n = recv(q->fd, room, QMP_READ, MSG_DONTWAIT);
	if (n > 0)
		buf_grew(&q->in, (size_t)n);
	else if (n == 0)
		return address_fail(err, BLIX_E_UNAVAILABLE, REASON_CLOSED,
		                    "hung up without an answer");
	else if (errno == ECONNRESET || errno == EPIPE)
		return address_fail(err, BLIX_E_UNAVAILABLE, REASON_CLOSED, "connection reset");
	else if (errno != EAGAIN && errno != EINTR)
		return blix_fail_sys(err, errno, "receive");
	return 0;
}

/* The next object that the monitor sends. */
static int qmp_receive(struct qmp *q, cJSON **ret, struct blix_error *err)
{
	cleanup(json_freep) cJSON *tree = NULL;
	const char *end;
	size_t n;
	int rc;

	while ((end = q->in.len == 0 ? NULL : memchr(q->in.data, '\n', q->in.len)) == NULL) {
		rc = qmp_fill(q, err);
		if (rc < 0)
			return rc;
	}
	n = (size_t)(end - q->in.data);
	rc = json_parse(q->in.data, n, &json_limits_answer, &tree, err);
	if (rc < 0 || !cJSON_IsObject(tree))
		return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED,
		                    "answer is not a JSON object");
	buf_consume(&q->in, n + 1);
	*ret = take(tree);
	return 0;
}

static int qmp_send(struct qmp *q, const char *text, size_t n, struct blix_error *err)
{
	while (n > 0) {
		ssize_t done = send(q->fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		int rc = 0;

		if (done >= 0) {
			text += done;
			n -= (size_t)done;
		} else if (errno == EAGAIN) {
			rc = qmp_wait(q, POLLOUT, err);
		} else if (errno == EPIPE || errno == ECONNRESET) {
			rc = address_fail(err, BLIX_E_UNAVAILABLE, REASON_CLOSED,
			                  "hung up without an answer");
		} else if (errno != EINTR) {
			rc = blix_fail_sys(err, errno, "send");
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int qmp_answered(cJSON *message, cJSON **ret, struct blix_error *err)
{
	const cJSON *error = NULL;
	const char *text = NULL;
	cJSON *value = cJSON_DetachItemFromObjectCaseSensitive(message, "return");

	if (value != NULL) {
		if (ret != NULL)
			*ret = value;
		else
			cJSON_Delete(value);
		return 0;
	}
	if (json_get_object(message, "error", &error, NULL) < 0 || error == NULL)
		return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED,
		                    "answer has neither return nor error");
	(void)json_get_string(error, "desc", &text, NULL);
	return address_fail(err, BLIX_E_REFUSED, REASON_ERROR, "%.200s",
	                    text != NULL ? text : "error without a description");
}

int qmp_execute(struct qmp *q, const char *command, const cJSON *arguments, cJSON **ret,
                struct blix_error *err)
{
	cleanup(json_freep) cJSON *request = json_object();
	cleanup(json_freep) cJSON *message = NULL;
	cleanup(freep) char *text = NULL;
	cleanup(freep) char *line = NULL;
	int rc;

	json_add_string(request, "execute", command);
	if (arguments != NULL)
		json_add(request, "arguments", cJSON_Duplicate(arguments, true));
	text = json_text(request);
	line = xasprintf("%s\n", text);
	rc = qmp_send(q, line, strlen(line), err);
	while (rc == 0) {
		rc = qmp_receive(q, &message, err);
		if (rc < 0 || cJSON_GetObjectItemCaseSensitive(message, "event") == NULL)
			break;
		cJSON_Delete(take(message));
	}
	return rc < 0 ? rc : qmp_answered(message, ret, err);
}

static int qmp_greet(struct qmp *q, struct blix_error *err)
{
	cleanup(json_freep) cJSON *greeting = NULL;
	int rc = qmp_receive(q, &greeting, err);

	if (rc < 0)
		return rc;
	if (!cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(greeting, "QMP")))
		return address_fail(err, BLIX_E_CORRUPT, REASON_MALFORMED,
		                    "greeting is not that of QMP");
	return qmp_execute(q, "qmp_capabilities", NULL, NULL, err);
}

int qmp_open(const char *socket_path, unsigned deadline_ms, struct qmp **ret,
             struct blix_error *err)
{
	cleanup(qmp_freep) struct qmp *q = xcalloc(1, sizeof(*q));
	int rc;

	q->deadline_ms = clock_boot_ms() + deadline_ms;
	buf_init(&q->in, LIMIT_QMP);
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (q->fd < 0)
		return blix_fail_sys(err, errno, "socket");
	rc = qmp_connect(q, socket_path, err);
	if (rc == 0)
		rc = qmp_greet(q, err);
	if (rc == 0)
		*ret = take(q);
	return rc;
}

void qmp_free(struct qmp *q)
{
	if (q == NULL)
		return;
	buf_done(&q->in);
	if (q->fd >= 0)
		(void)close(q->fd);
	free(q);
}

void qmp_freep(struct qmp **q)
{
	qmp_free(*q);
}

int qmp_query(const char *socket_path, const char *command, unsigned deadline_ms, cJSON **ret,
              struct blix_error *err)
{
	cleanup(qmp_freep) struct qmp *q = NULL;
	int rc = qmp_open(socket_path, deadline_ms, &q, err);

	if (rc < 0)
		return rc;
	assert(q != NULL);
	return qmp_execute(q, command, NULL, ret, err);
}
