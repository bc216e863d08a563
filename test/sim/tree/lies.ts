/** What a lying node says to its parent: old messages again, and outcomes of attempts that it never had. */
import type { FinishedAttempt, SyncMessage } from '../../../src/wire/work-messages.ts'
import { sha } from '../../scheduler/samples.ts'
import type { Machine } from './machine.ts'
import type { TreeWorld } from './world.ts'

/** In every outcome that is made up: it must never become that of an attempt. */
export const LIE = 'this is a lie'

export class Liar {
  readonly #world: TreeWorld
  readonly #machine: Machine
  #before: SyncMessage | undefined

  constructor(world: TreeWorld, machine: Machine) {
    this.#world = world
    this.#machine = machine
  }

  /** What is said instead of the truth, or beside it. */
  say(message: SyncMessage): SyncMessage {
    const { dice, isRough } = this.#world
    if (!isRough) return message
    const before = this.#before
    this.#before = message
    if (dice.chance(0.1) && before !== undefined) return before
    const attempt = dice.chance(0.3) ? this.#world.someAttemptOfOthers(this.#machine) : undefined
    if (attempt === undefined) return message
    return { ...message, finished: [...message.finished, this.#outcomeOf(attempt)] }
  }

  #outcomeOf(attempt: string): FinishedAttempt {
    const { peerId, name } = this.#machine
    const failed = {
      kind: 'failed',
      code: 'MESH0401',
      message: LIE,
      exitCode: 1,
      log: null,
      logTail: LIE,
    } as const
    const built = {
      kind: 'built',
      result: this.#world.sign({
        v: 1,
        action: sha(LIE),
        jobKey: sha(LIE),
        attempt,
        exitCode: 0,
        outputs: {},
        log: { digest: sha(LIE), size: 0 },
        usage: { wallMs: 0, cpuMs: 0, maxRssBytes: 0 },
        userland: null,
        builder: { peerId, name, system: 'x86_64-linux', isolation: 'namespace' },
        endedAtWallMs: 0,
      }),
    } as const
    return {
      attempt,
      outcome: this.#world.dice.chance(0.5) ? failed : built,
      usage: null,
      phases: {},
      bytes: { peer: 0, mirror: 0, local: 0 },
    }
  }
}
