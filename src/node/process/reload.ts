/**
 * SIGHUP to a running daemon: its configuration is read again, its machine looked at again.
 *
 * What can change while it runs is changed; of other settings it is said that they wait for the next start.
 * A configuration that is wrong changes nothing.
 */
import { closeSync, openSync } from 'node:fs'
import type { Logger } from 'pino'
import { hasCode } from '../../base/errors.ts'
import type { Config } from '../config/config.ts'
import type { Resolution } from '../config/resolve-config.ts'

/** Settings of [worker] that a running node takes up. */
const LIVE = ['cpus', 'memory', 'facts', 'features', 'systems', 'policy']

export class Reloads {
  readonly #log: Logger
  readonly #read: () => Resolution
  #before: Resolution
  #apply: ((config: Config) => Promise<void>) | undefined
  #isAsked = false
  #isBusy = false

  /** `before` is what the daemon was started with. */
  constructor({ log, read }: { log: Logger; read: () => Resolution }, before: Resolution) {
    this.#log = log
    this.#read = read
    this.#before = before
  }

  /** The daemon is ready; what was asked for before is done now. */
  start(apply: (config: Config) => Promise<void>): void {
    this.#apply = apply
    void this.#run()
  }

  /** Asked twice while one is under way, it is done once more. */
  ask(): void {
    this.#isAsked = true
    void this.#run()
  }

  async #run(): Promise<void> {
    const apply = this.#apply
    if (this.#isBusy || apply === undefined) return
    this.#isBusy = true
    while (this.#isAsked) {
      this.#isAsked = false
      try {
        await this.#reload(apply)
      } catch (error) {
        this.#log.error({ err: error }, 'the configuration could not be read again')
      }
    }
    this.#isBusy = false
  }

  async #reload(apply: (config: Config) => Promise<void>): Promise<void> {
    const next = this.#read()
    if (next.config === undefined) {
      for (const problem of next.problems)
        this.#log.error({ err: problem }, 'the configuration is wrong: nothing was changed')
      return
    }
    const later = changedKeys(this.#before, next)
    if (later.length > 0)
      this.#log.warn({ settings: later }, 'settings were changed that wait for the next start')
    await apply(next.config)
    // The others are told again until then.
    this.#log.info({ file: next.file }, 'the configuration was read again')
  }
}

/** Settings that are not LIVE and differ. */
function changedKeys(before: Resolution, after: Resolution): string[] {
  return after.settings
    .filter(({ section, key, toml }) => {
      if (section === 'worker' && LIVE.includes(key)) return false
      const was = before.settings.find((each) => each.section === section && each.key === key)
      return was?.toml !== toml
    })
    .map(({ section, key }) => `${section}.${key}`)
}

/** Whether this process can still open the terminal that it was started from: SIGHUP also says that it is gone. */
export function hasTerminal(): boolean {
  try {
    closeSync(openSync('/dev/tty', 'r'))
    return true
  } catch (error) {
    if (hasCode(error, 'ENXIO', 'ENOENT', 'EIO', 'EACCES')) return false
    throw error
  }
}
