import type { Peer } from '../statements/runners.js';

export interface DeathWatchSettings {
  readonly leaseMs: number;
  readonly heartbeatMs: number;
}

interface Sighting {
  readonly beat: number;
  /** When this process first saw that count, by its monotonic clock. */
  readonly since: number;
}

/**
 * Which runners are dead: their last heartbeat is older than a lease, by the database's clock, and this process has
 * watched their counter stand still for half a lease without a gap in its own heartbeats. So neither a clock that jumps
 * nor an outage, after which every counter is old, makes anybody look dead.
 */
export class DeathWatch {
  private sightings = new Map<string, Sighting>();
  private lastLook = Number.NEGATIVE_INFINITY;

  constructor(private readonly settings: DeathWatchSettings) {}

  /** Takes in what a heartbeat has brought; answers who is dead. */
  look(peers: readonly Peer[], now: number): Peer[] {
    const interrupted = now - this.lastLook > this.settings.heartbeatMs * 2;
    this.lastLook = now;
    const seen = new Map<string, Sighting>();
    const dead: Peer[] = [];
    for (const peer of peers) {
      const before = interrupted ? undefined : this.sightings.get(peer.id);
      const sighting = before?.beat === peer.beat ? before : { beat: peer.beat, since: now };
      seen.set(peer.id, sighting);
      if (peer.ageMs >= this.settings.leaseMs && now - sighting.since >= this.settings.leaseMs / 2) dead.push(peer);
    }
    this.sightings = seen;
    return dead;
  }
}
