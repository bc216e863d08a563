/** What a subtree could take, as its node said last and less what it was granted since. */
import type { Environment } from '../wire/environment.ts'
import { EMULATION_SPEED, isEmulated } from './isolation.ts'
import { environmentFor, type Requirement } from './match.ts'
import type { BundleOfferItem, NodeEntry } from './model.ts'
import type { Seat } from './kinds.ts'
import { classOf } from './requirement-wire.ts'

/** The fastest environment of the subtree that could start a job of the class now, or one that is busy with others. */
export function offerFor(
  requirement: Requirement,
  { node, unconfirmedCount }: Pick<Seat, 'node' | 'unconfirmedCount'>,
  when: 'now' | 'busy',
): BundleOfferItem | undefined {
  const { bundle } = node
  if (bundle === undefined) return undefined
  const slots = bundle.slots - unconfirmedCount
  let best: BundleOfferItem | undefined
  for (const offer of bundle.offers.get(classOf(requirement)) ?? []) {
    const count = Math.max(0, Math.min(slots, offer.count - unconfirmedCount))
    if (count > 0 !== (when === 'now')) continue
    if (best !== undefined && speedOfOffer(offer) <= speedOfOffer(best)) continue
    if (!isServedBy(requirement, offer.environment)) continue
    best = { ...offer, count }
  }
  return best
}

/** How fast it runs a job that has `emulationSpeed` where it is emulated. */
export function speedOfOffer(
  { speed, environment }: Pick<BundleOfferItem, 'speed' | 'environment'>,
  emulationSpeed = EMULATION_SPEED,
): number {
  return isEmulated(environment) ? speed * emulationSpeed : speed
}

/** The subtree has judged everything else. */
function isServedBy(requirement: Requirement, environment: Environment): boolean {
  return environmentFor(requirement, { environments: [environment] }) !== undefined
}

/** Grants that a subtree has not confirmed: its offers do not know of them yet. */
export function unconfirmedOf(node: NodeEntry): number {
  let count = 0
  for (const { confirmed } of node.attempts) if (!confirmed) count += 1
  for (const { confirmed, finished } of node.relayed.values())
    if (!confirmed && finished === undefined) count += 1
  return count
}
