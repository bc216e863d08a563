/**
 * What this node's machine offers, kept up to date: looked at when the node starts, every ten minutes, and
 * when it is told to (SIGHUP). What changed is logged and told to whoever grants.
 *
 * Compilers are upgraded and emulators installed while a node runs; it must not go on offering what was.
 */
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock, Timer } from '../base/clock.ts'
import type { Executor } from '../build/executor.ts'
import { openHostEnvironment, type OwnUserland } from '../build/host-environment.ts'
import { imageEnvironments } from '../build/image-root.ts'
import { askFacts, type CustomFacts } from '../build/probe/custom-facts.ts'
import { probeOffer, type OfferFacts } from '../build/probe/machine-facts.ts'
import { offeredOf, type Declared, type Offered } from '../build/probe/offered.ts'
import type { Runnable } from '../build/probe/systems.ts'
import type { Digest } from '../wire/digest.ts'
import type { Environment } from '../wire/environment.ts'
import type { Fact } from '../wire/machine-fact.ts'
import type { Config } from './config/config.ts'
import { shownFacts } from './machine-view.ts'
import { findChanges } from './machine-changes.ts'

const LOOK_MS = 10 * 60_000

export interface MachineDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly executor: Executor
}

export interface MachineOptions {
  /** The data directory. */
  readonly data: string
  readonly declared: Declared
  /** Programs that tell facts. */
  readonly factPaths: readonly string[]
}

/** What of the configuration says how much of the machine is offered. It may be read again while the node runs. */
export function machineOptions(config: Config): Omit<MachineOptions, 'data'> {
  const { cpus, memoryBytes, features, systems, facts } = config
  return { declared: { cpus, memoryBytes, features, systems }, factPaths: facts }
}

/** How the machine is found out; tests give another. */
export type ProbeOffer = (options: {
  readonly data: string
  readonly directory: string
}) => Promise<OfferFacts>

export class Machine implements Disposable {
  readonly #deps: MachineDeps
  readonly #probe: ProbeOffer
  readonly #userland: OwnUserland
  readonly #end = new AbortController()
  #options: MachineOptions
  #facts: OfferFacts
  #custom: CustomFacts
  #offered: Offered
  #timer: Timer | undefined
  /** The look that runs, and the one that comes after it, for all who asked meanwhile. */
  #looking: Promise<void> | undefined
  #next: Promise<void> | undefined
  /** Called when something else is offered. */
  onChange: () => void = () => undefined

  private constructor(
    deps: MachineDeps,
    options: MachineOptions,
    found: { probe: ProbeOffer; userland: OwnUserland; facts: OfferFacts; custom: CustomFacts },
  ) {
    this.#deps = deps
    this.#options = options
    this.#probe = found.probe
    this.#userland = found.userland
    this.#facts = found.facts
    this.#custom = found.custom
    this.#offered = this.#offer()
  }

  static async open(
    deps: MachineDeps,
    options: MachineOptions,
    probe: ProbeOffer = probeOffer,
  ): Promise<Machine> {
    const { data } = options
    const [userland, facts, custom] = await Promise.all([
      openHostEnvironment({ directory: data, sandbox: deps.executor.sandbox }),
      probe({ data, directory: data }),
      askFacts(deps.executor, {
        paths: options.factPaths,
        directory: join(data, 'facts'),
        signal: new AbortController().signal,
      }),
    ])
    const machine = new Machine(deps, options, { probe, userland, facts, custom })
    for (const notice of machine.offered.notices) deps.log.warn({ notice }, NOTICE)
    machine.#arm()
    return machine
  }

  get offered(): Offered {
    return this.#offered
  }
  get systems(): readonly Runnable[] {
    return this.#offered.systems
  }
  get environments(): readonly Environment[] {
    return this.#offered.environments
  }
  /** For people. */
  get facts(): readonly Fact[] {
    return shownFacts({ facts: this.#facts, offered: this.#offered, custom: this.#custom })
  }

  probeTool(name: string): Promise<Digest | null> {
    return this.#userland.probeTool(name)
  }

  /** The configuration was read again. */
  async declare(options: Pick<MachineOptions, 'declared' | 'factPaths'>): Promise<void> {
    this.#options = { ...this.#options, ...options }
    await this.look()
  }

  /** Resolves when all has been looked at that was so when it was called. Never rejects. */
  look(): Promise<void> {
    if (this.#looking === undefined) {
      this.#looking = this.#look().finally(() => {
        this.#looking = undefined
      })
      return this.#looking
    }
    this.#next ??= this.#looking.then(() => {
      this.#next = undefined
      return this.look()
    })
    return this.#next
  }

  async #look(): Promise<void> {
    const { log, executor } = this.#deps
    const { data, factPaths } = this.#options
    const { signal } = this.#end
    if (signal.aborted) return
    this.#timer?.cancel()
    try {
      const [facts, custom] = await Promise.all([
        this.#probe({ data, directory: data }),
        askFacts(executor, { paths: factPaths, directory: join(data, 'facts'), signal }),
        this.#userland.look(),
      ])
      this.#facts = facts
      this.#custom = custom
      const before = this.#offered
      this.#offered = this.#offer()
      const changes = findChanges(before, this.#offered)
      for (const notice of this.#offered.notices)
        if (!before.notices.includes(notice)) log.warn({ notice }, NOTICE)
      if (changes.length > 0) log.info({ changes }, 'the machine offers something else')
      this.onChange()
    } catch (error) {
      // What was known stays offered: that it cannot be found out now does not make it wrong.
      if (!signal.aborted) log.warn({ err: error }, 'the machine could not be looked at')
    }
    this.#arm()
  }

  #offer(): Offered {
    const { sandbox, controls } = this.#deps.executor
    const facts = this.#facts
    const images = sandbox.imageProblem === undefined ? imageEnvironments(facts.systems) : []
    return offeredOf({
      facts,
      declared: this.#options.declared,
      custom: this.#custom,
      environments: [...this.#userland.environments, ...images],
      isSecure: controls.isSecure,
    })
  }

  #arm(): void {
    if (!this.#end.signal.aborted)
      this.#timer = this.#deps.clock.setTimer(LOOK_MS, () => void this.look())
  }

  [Symbol.dispose](): void {
    this.#end.abort()
    this.#timer?.cancel()
  }
}

const NOTICE = 'the configuration of this worker does not fit its machine'
