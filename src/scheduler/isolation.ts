/** What environments are to jobs beyond their userland: how strong their walls are, and what the machine below them is. */
import { Isolation, type Environment } from '../wire/environment.ts'

/**
 * How fast a job runs in an emulated environment, to a native one of the same machine, until it was seen: qemu
 * needs ten to thirty times as long for compilers.
 */
export const EMULATION_SPEED = 0.05

/** Of an environment that is not emulated, whatever the node calls it. */
const NATIVE = 'native'

/** Whether the machine only acts as if it were of that system. */
export function isEmulated({ machine, system }: Pick<Environment, 'machine' | 'system'>): boolean {
  return machine !== undefined && machine !== system
}

/** The system of the machine itself. */
export function machineOf({ machine, system }: Pick<Environment, 'machine' | 'system'>): string {
  return machine ?? system
}

export function hasFeature(environment: Environment, feature: string): boolean {
  if (feature === NATIVE) return !isEmulated(environment)
  return environment.features.includes(feature)
}

const strengthOf = ({ isolation }: Environment): number => Isolation.options.indexOf(isolation)

export function isStronger(a: Environment, b: Environment): boolean {
  return strengthOf(a) > strengthOf(b)
}

/** The name of the strongest isolation among them; `none` where there is none. */
export function strongestOf(environments: readonly Environment[]): string {
  let strongest: Environment | undefined
  for (const environment of environments)
    if (strongest === undefined || isStronger(environment, strongest)) strongest = environment
  return strongest?.isolation ?? 'none'
}
