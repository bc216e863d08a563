/** What the parts of a simulated tree see of the whole. */
import type { z } from 'zod'
import type { Scheduler } from '../../../src/scheduler/scheduler.ts'
import type { Fact } from '../../../src/wire/facts.ts'
import type { ActionResult, SignedResult } from '../../../src/wire/result.ts'
import type { DesiredMessage, Lease } from '../../../src/wire/work-messages.ts'
import type { Random } from '../../../src/base/random.ts'
import type { Dice } from '../dice.ts'
import type { SimClock } from '../sim-clock.ts'
import type { Machine } from './machine.ts'
import type { Network } from './network.ts'

export interface TreeWorld {
  readonly clock: SimClock
  readonly dice: Dice
  /** The same dice, for code of the product that asks for bytes. */
  readonly random: Random
  readonly network: Network
  /** Whether things may go wrong now. */
  readonly isRough: boolean
  machineOf(name: string): Machine
  /** Whoever has that id now, or had it before it lost its disk. */
  machineBy(peerId: string): Machine | undefined
  /** The value as it arrives. */
  overWire<T>(schema: z.ZodType<T>, value: T): T
  /** How long a write of the journal takes. */
  writeMs(): number
  sign(result: ActionResult): SignedResult
  /** Undefined for what nobody signed. */
  resultOf(signed: SignedResult): ActionResult | undefined
  check(holds: boolean, message: string | (() => string)): void
  /** An attempt that was begun, on other machines alone. */
  someAttemptOfOthers(machine: Machine): string | undefined
  trace(line: () => string): void

  afterEvent(machine: Machine, scheduler: Scheduler): void
  onFact(machine: Machine, fact: Fact): void
  onCommit(machine: Machine, result: ActionResult): void
  /** A message is about to leave the granter. */
  onDesired(granter: Machine, peerId: string, message: DesiredMessage): void
  /** A worker begins and ends an attempt. */
  onBegin(machine: Machine, lease: Lease): void
  /** All of one message was done. */
  onTaken(machine: Machine): void
  onBuilt(machine: Machine, lease: Lease, result: ActionResult): void
}
