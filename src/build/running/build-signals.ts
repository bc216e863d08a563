/**
 * Reaches all processes of one build, from its start until none is left: stops them where they stand, lets
 * them go on, and kills them. By its control groups where it has some; else by the process group of a plain
 * build, and by the pid namespace of a sealed one.
 *
 * Always SIGKILL: a build has nothing to tidy up, its directory goes.
 */
import type { Clock, Timer } from '../../base/clock.ts'
import type { BuildSpec } from '../executor-protocol.ts'
import type { BuildGroup } from '../groups/build-group.ts'
import { childrenOf, killLeftovers, killProcess } from '../process-list.ts'
import { signalTree } from '../stopped-processes.ts'

/** Between two tries to kill what did not end yet. */
const KILL_AGAIN_MS = 100

export class BuildSignals {
  readonly #clock: Clock
  readonly #spec: Pick<BuildSpec, 'isolation' | 'directory'>
  readonly #pid: number
  readonly #group: BuildGroup | undefined
  #isStopped = false
  #isOver = false
  #again: Timer | undefined

  /** `pid` is its first process; without a group there is no control group to reach it by. */
  constructor(
    clock: Clock,
    spec: Pick<BuildSpec, 'isolation' | 'directory'>,
    { pid, group }: { readonly pid: number; readonly group: BuildGroup | undefined },
  ) {
    this.#clock = clock
    this.#spec = spec
    this.#pid = pid
    this.#group = group
  }

  stop(): void {
    this.#isStopped = true
    if (this.#group?.freeze(true) === true) return
    // What waits for it outside of its walls goes on.
    const isRootIncluded = this.#spec.isolation === 'host'
    signalTree(this.#pid, 'SIGSTOP', { isRootIncluded })
  }

  goOn(): void {
    this.#isStopped = false
    if (this.#group?.freeze(false) === true) return
    signalTree(this.#pid, 'SIGCONT', { isRootIncluded: true })
  }

  /** Begins to kill, again and again until `killLeft`. */
  kill(): void {
    if (this.#isOver) return
    this.#again?.cancel()
    this.#again = this.#clock.setTimer(KILL_AGAIN_MS, () => this.kill())
    if (this.#spec.isolation === 'host') {
      killProcess(-this.#pid)
      this.#group?.killOnce()
      return
    }
    // What stands still may not die before it goes on.
    if (this.#isStopped) this.#group?.freeze(false)
    // The child of the outermost process is the first of the pid namespace: with it all others die, and
    // only then the outer one ends. Before there is a child, the outer one is all there is.
    const children = childrenOf(this.#pid)
    for (const target of children.length > 0 ? children : [this.#pid]) killProcess(target)
  }

  /** Its first process has ended: kills whoever is left of it, and returns how many are left after all. */
  async killLeft(): Promise<number> {
    this.#isOver = true
    this.#again?.cancel()
    const isPlain = this.#spec.isolation === 'host'
    if (isPlain) killProcess(-this.#pid)
    const inGroup = (await this.#group?.kill(this.#clock)) ?? 0
    // It was in its group before its first step: nothing of it is anywhere else.
    if (!isPlain || this.#group?.holdsAll === true) return inGroup
    return inGroup + (await killLeftovers(this.#clock, this.#spec.directory, 'attempt'))
  }
}
