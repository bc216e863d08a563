/**
 * Keeps one link to the first reachable of a node's parents, for ever.
 *
 * libp2p's own reconnecting gives up after half a minute; this one never does. The daemon hands in how to
 * connect, and is told of each new link.
 */
import type { Logger } from 'pino'
import { deadline, sleep, type Clock } from '../../base/clock.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import { ParentRounds } from './parent-rounds.ts'
import type { PeerLink } from './peer-link.ts'

/** Dialling and the first messages at one address. */
const CONNECT_MS_MAX = 15_000

export interface ParentStatus {
  readonly address: string
  readonly connected: boolean
  /** Why the last try failed or the last link ended; null while connected, and before the first try. */
  readonly error: string | null
}

export interface Parents extends AsyncDisposable {
  /** Undefined between links. */
  link(): PeerLink | undefined
  /** In the order of preference. */
  status(): ParentStatus[]
  start(): void
  /** Closes the link and ends all tries. Idempotent; not to be started again. */
  stop(): Promise<void>
}

interface ParentsDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  /** Dials one address and exchanges the first messages. */
  readonly connect: (
    address: string,
    options: { readonly signal: AbortSignal },
  ) => Promise<PeerLink>
}

interface ParentsOptions {
  /** Preferred first. A link is not given up when a preferred parent comes back. */
  readonly addresses: readonly string[]
  readonly onLink: (link: PeerLink) => void
}

export function createParents(deps: ParentsDeps, options: ParentsOptions): Parents {
  return new ParentSupervisor(deps, options)
}

class ParentSupervisor implements Parents {
  readonly #deps: ParentsDeps
  readonly #options: ParentsOptions
  readonly #log: Logger
  readonly #stopping = new AbortController()
  readonly #errors = new Map<string, string>()
  #current: { readonly address: string; readonly link: PeerLink } | undefined
  #loop: Promise<void> | undefined

  constructor(deps: ParentsDeps, options: ParentsOptions) {
    this.#deps = deps
    this.#options = options
    this.#log = deps.log.child({ part: 'parents' })
  }

  link(): PeerLink | undefined {
    return this.#current?.link
  }

  status(): ParentStatus[] {
    return this.#options.addresses.map((address) => ({
      address,
      connected: this.#current?.address === address,
      error: this.#errors.get(address) ?? null,
    }))
  }

  start(): void {
    if (this.#options.addresses.length > 0) this.#loop ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new MeshError('MESH0108', 'the node is stopping'))
    this.#current?.link.close('this node is stopping')
    await this.#loop
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #run(): Promise<void> {
    const { clock, random } = this.#deps
    const { addresses } = this.#options
    const { signal } = this.#stopping
    const rounds = new ParentRounds(addresses.length)
    while (!signal.aborted) {
      const { at, delayMs } = rounds.next(random)
      if (delayMs > 0) {
        try {
          await sleep(clock, delayMs, signal)
        } catch (error) {
          if (signal.aborted) return
          throw error
        }
      }
      const livedMs = await this.#try(addresses[at] ?? '')
      if (livedMs === undefined) rounds.failed()
      else rounds.ended(livedMs)
    }
  }

  /** How long the link lived that was made; undefined without one. */
  async #try(address: string): Promise<number | undefined> {
    const { clock } = this.#deps
    const { signal } = this.#stopping
    const link = await this.#connect(address)
    if (signal.aborted) link?.close('this node is stopping')
    if (signal.aborted || link === undefined) return undefined
    const sinceMs = clock.nowMs()
    this.#current = { address, link }
    this.#errors.delete(address)
    this.#options.onLink(link)
    const reason = await link.closed
    this.#current = undefined
    this.#errors.set(address, reason)
    return clock.nowMs() - sinceMs
  }

  async #connect(address: string): Promise<PeerLink | undefined> {
    const limit = deadline(
      this.#deps.clock,
      CONNECT_MS_MAX,
      () =>
        new MeshError('MESH0120', `${address}: no link within ${CONNECT_MS_MAX / 1000} s`, {
          where: address,
        }),
      this.#stopping.signal,
    )
    try {
      return await this.#deps.connect(address, { signal: limit.signal })
    } catch (error) {
      if (!this.#stopping.signal.aborted) {
        // Once per reason: a parent that is away for a day is no reason for thousands of lines.
        const message = messageOf(error)
        if (this.#errors.get(address) !== message)
          this.#log.warn({ err: error, address }, 'parent not reached')
        this.#errors.set(address, message)
      }
      return undefined
    } finally {
      limit.cancel()
    }
  }
}
