/* SPDX-License-Identifier: MIT */
/* The process after it listens: signals, the way from the first SIGTERM to the last reply, and what a service manager hears meanwhile. Loop thread only.
 *
 * SIGTERM or SIGINT: /readyz, /health and /ping are 503 at once, and replies end their connections. For --shutdown-delay everything is taken and answered
 * still; then the listeners close, new work is 503, and what runs has --drain-timeout. What is left then, or at a second signal, ends with an error that
 * says so; a moment later, or at a third signal, connections that are still open are cut. */
#ifndef AD_SERVER_LIFE_H
#define AD_SERVER_LIFE_H

#include "server/app.h"

typedef struct ad_life ad_life;

/* Watches signals from now on, and the engine. SIGHUP calls reload(user). ended(user) is called once, when the HTTP server that app->http names is gone. app is borrowed. */
AD_MUSTUSE ad_status ad_life_new(ad_life **out, ad_app *app, void (*reload)(void *user), void (*ended)(void *user), void *user, ad_err *err);
/* We listen: says so to the service manager. */
void ad_life_ready(ad_life *l);
/* Stops watching; the memory goes with the loop's next turn. NULL is fine. */
void ad_life_close(ad_life **l);

#endif
