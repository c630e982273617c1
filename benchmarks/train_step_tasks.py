"""What is trained in train_step.py: the same network and loss for us and for PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side as sbs

from ldm_jax.autoencoder.discriminator import DiscriminatorConfig
from ldm_jax.autoencoder.step import AutoencoderObjective
from ldm_jax.conditioning.model import ConditionalModel
from ldm_jax.diffusion.schedule import ScheduleConfig, make_schedule
from ldm_jax.diffusion.step import DiffusionObjective
from ldm_jax.diffusion.unet import UNet

CHANNELS = 3  # of images


class UNetTask:
    """What both sides need to train a UNet on random latents."""

    def __init__(self, size: sbs.UNetSize, batch: int):
        self.size, self.schedule = size, make_schedule(ScheduleConfig())
        rng = np.random.default_rng(0)
        draw = partial(rng.standard_normal, dtype=np.float32)
        self.batch = {"z_0": draw((batch, *size.latent))}
        if size.tokens:
            self.batch["y"] = draw((batch, *size.tokens))

    def objective(self, dtype) -> DiffusionObjective:
        size, c = self.size, self.size.latent[-1]
        dim = size.tokens[1] if size.tokens else 0
        return DiffusionObjective(
            lambda rngs: ConditionalModel(UNet(size.unet, c, c, dim, dtype=dtype, rngs=rngs)),
            self.schedule,
            size.prediction,
            lambda constants, batch, key: batch["z_0"],
            (lambda constants, batch, key: batch["y"]) if size.tokens else None,
        )

    def draws(self, key):
        """(t, eps) as `DiffusionObjective.loss` draws them from the key of a step."""
        key_t, key_eps = jax.random.split(jax.random.split(key, 4)[2])
        n = len(self.batch["z_0"])
        t = jax.random.randint(key_t, (n,), 0, self.schedule.timesteps)
        return {"t": t, "eps": jax.random.normal(key_eps, self.batch["z_0"].shape)}

    def output(self, params, batch, draws):
        """Our network's output for what it is given in the loss, at t = draws['t']."""
        model = self.objective(jnp.float32).model(params)
        return model(batch["z_0"], draws["t"], batch.get("y"))

    def theirs(self, torch, params):
        """(diffusers' network, output and loss of it), both functions of a batch and draws."""
        import in_diffusers

        size = self.size
        dim = size.tokens[1] if size.tokens else 0
        network = in_diffusers.unet(size.unet, params["unet"], size.latent[-1], dim)
        device = sbs.torch_device()
        tables = {
            "alpha": self.schedule.alpha_bar**0.5,
            "sigma": (1 - self.schedule.alpha_bar) ** 0.5,
        }
        tables = {k: torch.tensor(v, dtype=torch.float32, device=device) for k, v in tables.items()}

        def output(network, batch, draws):
            more = (batch["y"],) if "y" in batch else ()
            return network(batch["z_0"], draws["t"], *more, return_dict=False)[0]

        def loss(network, batch, draws):
            z_0, eps = batch["z_0"], draws["eps"]
            alpha, sigma = (tables[k][draws["t"]][:, None, None, None] for k in tables)
            out = output(network, {**batch, "z_0": alpha * z_0 + sigma * eps}, draws)
            target = eps if size.prediction == "eps" else alpha * eps - sigma * z_0
            return torch.nn.functional.mse_loss(out.float(), target)

        def draw(batch):
            z_0 = batch["z_0"]
            t = torch.randint(0, self.schedule.timesteps, (len(z_0),), device=device)
            return {"t": t, "eps": torch.randn_like(z_0)}

        return network, output, loss, draw


class AutoencoderTask:
    """What both sides need to train an autoencoder on random images."""

    def __init__(self, size: sbs.AutoencoderSize, batch: int):
        self.size = size
        images = np.random.default_rng(0).integers(
            0, 256, (batch, size.image, size.image, CHANNELS), np.uint8
        )
        self.batch = {"image": images}

    def objective(self, dtype) -> AutoencoderObjective:
        size = self.size
        return AutoencoderObjective(
            size.network, size.loss, DiscriminatorConfig(), CHANNELS, dtype=dtype
        )

    def draws(self, key):
        """The noise of the posterior as `AutoencoderObjective.loss_and_grads` draws it."""
        side, c = self.size.image // self.size.network.f, self.size.network.z_channels
        shape = (len(self.batch["image"]), side, side, c)
        return {"eps": jax.random.normal(jax.random.split(key)[0], shape)}

    def output(self, params, batch, draws):
        """Our reconstruction of the images through a sample of the posterior."""
        model = self.objective(jnp.float32).autoencoder(params["autoencoder"])
        mean, logvar = jnp.split(model.encode(batch["image"] / 127.5 - 1), 2, axis=-1)
        return model.decode(mean + jnp.exp(0.5 * logvar) * draws["eps"])

    def theirs(self, torch, params):
        import in_diffusers

        size = self.size
        network = in_diffusers.autoencoder(size.network, params["autoencoder"], CHANNELS)

        def both(network, batch, draws):
            x = batch["image"].float() / 127.5 - 1
            mean, logvar = network.quant_conv(network.encoder(x)).float().chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            z = mean + torch.exp(0.5 * logvar) * draws["eps"]
            x_hat = network.decoder(network.post_quant_conv(z)).float()
            kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
            return x, x_hat, kl

        def output(network, batch, draws):
            return both(network, batch, draws)[1]

        def loss(network, batch, draws):
            x, x_hat, kl = both(network, batch, draws)
            config, error = size.loss, x - x_hat
            total = config.l1_weight * error.abs().mean() + config.kl_weight / x[0].numel() * kl
            return total + config.l2_weight * (error**2).mean() if config.l2_weight else total

        def draw(batch):
            image, f = batch["image"], size.network.f
            n, _, h, w = image.shape
            shape = (n, size.network.z_channels, h // f, w // f)
            return {"eps": torch.randn(shape, device=image.device)}

        return network, output, loss, draw
