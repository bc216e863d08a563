/**
 * The token that this node shows to others: asked of the owner, renewed long before it ends, and kept when
 * the owner is away. Its issuer is also the one whose tokens this node accepts.
 */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { orAborted } from '../../base/or-aborted.ts'
import { openToken, TOKEN_MS, type TokenHolder } from '../../wire/access-token.ts'

/** Two thirds of its time are left for a parent that is away. */
const RENEW_MS = TOKEN_MS / 3
const ASK_MS_MAX = 10_000
/** A token that is refused when it is newer than this is not replaced: the next one would be refused too. */
const FRESH_MS = 10_000

interface Held {
  readonly text: string
  readonly issuer: string
  readonly sinceMs: number
}

export class Tokens {
  readonly #clock: Clock
  readonly #log: Logger
  readonly #self: TokenHolder
  readonly #ask: (self: TokenHolder, signal: AbortSignal) => Promise<string>
  #held: Held | undefined
  #renewing: Promise<Held> | undefined

  constructor(
    deps: {
      readonly clock: Clock
      readonly log: Logger
      /** Whoever mints: the owner, here or up the tree. */
      readonly ask: (self: TokenHolder, signal: AbortSignal) => Promise<string>
    },
    self: TokenHolder,
  ) {
    this.#clock = deps.clock
    this.#log = deps.log
    this.#ask = deps.ask
    this.#self = self
  }

  /** The owner that this node's own token is from; undefined before the first one. */
  get issuer(): string | undefined {
    return this.#held?.issuer
  }

  /** Asks for a new one in the background; what goes wrong is tried again at the next beat. */
  renew(): void {
    this.#renewed().catch((error: unknown) =>
      this.#log.debug({ err: error }, 'token was not renewed'),
    )
  }

  /** Renews what is due. */
  beat(): void {
    if (this.#held === undefined || this.#ageMs(this.#held) >= RENEW_MS) this.renew()
  }

  /**
   * The token to show; another one than `refused`, which somebody has just not accepted. Waits only for the
   * first and for a replacement. Throws MESH0120, MESH0603, and what the owner says.
   */
  async current(options: {
    readonly refused?: string
    readonly signal: AbortSignal
  }): Promise<string> {
    const held = this.#held
    if (held !== undefined && held.text !== options.refused) return held.text
    if (held !== undefined && this.#ageMs(held) < FRESH_MS)
      throw new MeshError('MESH0603', 'it does not accept the newest token of this node')
    return (await orAborted(this.#renewed(), options.signal)).text
  }

  #ageMs({ sinceMs }: Held): number {
    return this.#clock.nowMs() - sinceMs
  }

  #renewed(): Promise<Held> {
    this.#renewing ??= this.#fetch().finally(() => {
      this.#renewing = undefined
    })
    return this.#renewing
  }

  async #fetch(): Promise<Held> {
    const sinceMs = this.#clock.nowMs()
    const limit = deadline(
      this.#clock,
      ASK_MS_MAX,
      () => new MeshError('MESH0120', `no token came within ${ASK_MS_MAX / 1000} s`),
    )
    try {
      const text = await orAborted(this.#ask(this.#self, limit.signal), limit.signal)
      const { holder, certificate, issuer } = openToken(text)
      if (holder !== this.#self.holder || certificate !== this.#self.certificate)
        throw new MeshError('MESH0210', `the token that came is for another node, ${holder}`)
      this.#held = { text, issuer, sinceMs }
      return this.#held
    } finally {
      limit.cancel()
    }
  }
}
