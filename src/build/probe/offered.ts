/**
 * What a node offers: what was probed, less what its configuration holds back. Pure.
 *
 * The configuration may restrict, and add names of its own; it can claim nothing that a probe has disproved.
 * Where it tries to, a notice says so.
 */
import type { Environment } from '../../wire/environment.ts'
import { formatSize } from '../../base/units.ts'
import { PROBED_FEATURES, isProbed, type CustomFacts } from './custom-facts.ts'
import type { Known } from './known.ts'
import type { OfferFacts } from './machine-facts.ts'
import type { Runnable } from './systems.ts'

/** Of the configuration, [worker]. */
export interface Declared {
  readonly cpus?: number | undefined
  readonly memoryBytes?: number | undefined
  /** Names of its own, and `-NAME` for what is not to be offered though it is there. */
  readonly features: readonly string[]
  /** The only ones to be offered; undefined: all that run. */
  readonly systems?: readonly string[] | undefined
}

export interface Offered {
  readonly cpus: Known<number>
  readonly memoryBytes: Known<number>
  readonly diskBytes: number
  /** Whose programs builds may be. */
  readonly systems: readonly Runnable[]
  readonly environments: readonly Environment[]
  /** What was declared and cannot be, or what is wrong with programs that tell facts: one line each. */
  readonly notices: readonly string[]
}

/** As the wire has it. */
const FEATURES_MAX = 64

export function offeredOf(options: {
  readonly facts: OfferFacts
  readonly declared: Declared
  readonly custom: CustomFacts
  /** Of the host itself and of images, without features but `native`. */
  readonly environments: readonly Environment[]
  /** Whether sealed builds have all walls that there are. */
  readonly isSecure: boolean
}): Offered {
  const { facts, declared, custom, environments, isSecure } = options
  const notices = [...custom.problems]
  const isWanted = (system: string): boolean => declared.systems?.includes(system) ?? true
  const systems = facts.systems.filter(({ system }) => isWanted(system))
  for (const system of declared.systems ?? []) {
    if (facts.systems.some((runnable) => runnable.system === system)) continue
    const why = facts.otherSystems.find((other) => other.system === system)?.why
    notices.push(
      `worker.systems has ${system}, whose programs do not run here: ${why ?? 'no probe knows them'}`,
    )
  }
  const removed = new Set(
    declared.features.flatMap((name) => (name.startsWith('-') ? [name.slice(1)] : [])),
  )
  const added = declared.features.filter((name) => !name.startsWith('-'))
  for (const name of added)
    if (isProbed(name)) {
      const why = whyNot(name, options)
      if (why !== undefined)
        notices.push(`worker.features has ${name}, which does not work here: ${why}`)
    }
  const own = [...added.filter((name) => !isProbed(name)), ...custom.features]
  return {
    cpus: capped('worker.cpus', declared.cpus, facts.cpus, String, notices),
    memoryBytes: capped(
      'worker.memory',
      declared.memoryBytes,
      facts.memoryBytes,
      formatSize,
      notices,
    ),
    diskBytes: facts.disk.value.freeBytes,
    systems,
    environments: environments
      .filter(({ system }) => isWanted(system))
      .map((environment) => {
        const features = [...probedFeatures(environment, facts, { isSecure }), ...own]
        return {
          ...environment,
          features: [...new Set(features)]
            .filter((name) => !removed.has(name))
            .slice(0, FEATURES_MAX)
            .toSorted(),
        }
      }),
    notices,
  }
}

/** What is declared, but no more than there is. */
function capped(
  key: string,
  declared: number | undefined,
  probed: Known<number>,
  shown: (value: number) => string,
  notices: string[],
): Known<number> {
  if (declared === undefined) return probed
  if (declared <= probed.value)
    return {
      value: declared,
      source: 'declared',
      how: `${key}, of ${shown(probed.value)}: ${probed.how}`,
    }
  const how = `${key} is ${shown(declared)}, but there are only ${shown(probed.value)} (${probed.how})`
  notices.push(`${how}: no more is offered`)
  return { ...probed, how }
}

function probedFeatures(
  { system, isolation, machine, features }: Environment,
  facts: OfferFacts,
  { isSecure }: { readonly isSecure: boolean },
): string[] {
  const isNative =
    machine === undefined &&
    !facts.systems.some((runnable) => runnable.system === system && runnable.how === 'emulated')
  const kvm = isolation === 'host' ? facts.kvm.host : facts.kvm.sandbox
  return [
    ...features.filter((name) => !isProbed(name)),
    ...(isNative ? ['native'] : []),
    ...(isNative && kvm.ok ? ['kvm'] : []),
    ...(isSecure && isolation !== 'host' ? ['secure'] : []),
  ]
}

/** Undefined where it works somewhere. */
function whyNot(
  name: string,
  { facts, isSecure }: { readonly facts: OfferFacts; readonly isSecure: boolean },
): string | undefined {
  const feature = PROBED_FEATURES.find((candidate) => candidate === name)
  switch (feature) {
    case 'kvm':
      return facts.kvm.host.ok ? undefined : facts.kvm.host.why
    case 'secure':
      return isSecure ? undefined : 'the sandbox here lacks some of the walls'
    case 'native':
    case undefined:
      return undefined
  }
}
