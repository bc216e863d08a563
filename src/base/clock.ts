/** Time as a dependency: the one place of the daemon and the client that reads clocks and sets timers. */

/** A cancellable timer; disposing it after it fired is harmless. */
export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Monotonic integer milliseconds since an arbitrary start: for leases, timeouts and durations. */
  nowMs(): number
  /** Milliseconds since the Unix epoch: for display, certificates and decay only. */
  wallMs(): number
  /** Calls `fire` once, `delayMs` from now. Timers do not keep the process alive. */
  setTimer(delayMs: number, fire: () => void): Timer
}

/** The machine's own clocks. */
export function systemClock(): Clock {
  return {
    nowMs: () => Math.floor(performance.now()),
    wallMs: () => Date.now(),
    setTimer(delayMs, fire) {
      const timer = setTimeout(fire, Math.max(0, delayMs))
      timer.unref()
      return { cancel: () => clearTimeout(timer) }
    },
  }
}

/** Resolves after `delayMs`; rejects with the signal's reason when it aborts first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason)
      return
    }
    const onAbort = (): void => {
      timer.cancel()
      reject(signal?.reason)
    }
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/** A deadline as a signal. The caller cancels it when the work is done, so that no timer lingers. */
export function deadline(
  clock: Clock,
  delayMs: number,
  reason: () => Error,
  parent?: AbortSignal,
): { readonly signal: AbortSignal; cancel(): void } {
  const controller = new AbortController()
  const onAbort = (): void => controller.abort(parent?.reason)
  if (parent?.aborted) controller.abort(parent.reason)
  else parent?.addEventListener('abort', onAbort, { once: true })
  const timer = clock.setTimer(delayMs, () => controller.abort(reason()))
  return {
    signal: controller.signal,
    cancel() {
      timer.cancel()
      parent?.removeEventListener('abort', onAbort)
    },
  }
}
